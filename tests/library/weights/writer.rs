//! Writes files as `torch.save` does, and others that it never would.

/// `X`: a text.
pub fn text(text: &str) -> Vec<u8> {
    [b"X", &(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat()
}

/// `\x8a`: a whole number.
pub fn int(n: i64) -> Vec<u8> {
    [b"\x8a\x08", &n.to_le_bytes()[..]].concat()
}

pub fn global(module: &str, name: &str) -> Vec<u8> {
    format!("c{module}\n{name}\n").into_bytes()
}

pub fn tuple(items: &[Vec<u8>]) -> Vec<u8> {
    [b"(", &items.concat()[..], b"t"].concat()
}

pub fn list(items: &[Vec<u8>]) -> Vec<u8> {
    [b"](", &items.concat()[..], b"e"].concat()
}

/// A plain dictionary.
pub fn dict(entries: &[(Vec<u8>, Vec<u8>)]) -> Vec<u8> {
    let entries: Vec<u8> = entries.iter().flat_map(|(k, v)| [&k[..], v].concat()).collect();
    [b"}(", &entries[..], b"u"].concat()
}

/// `name` → a tensor of [`FLOATS`].
pub fn state_dict(name: &str) -> Vec<u8> {
    dict(&[(text(name), View::FLOATS.pickled())])
}

/// `function(arguments)`.
pub fn call(function: Vec<u8>, arguments: &[Vec<u8>]) -> Vec<u8> {
    [function, tuple(arguments), b"R".to_vec()].concat()
}

pub fn ordered_dict() -> Vec<u8> {
    call(global("collections", "OrderedDict"), &[])
}

/// A tensor as it is described.
#[derive(Clone, Copy)]
pub struct View<'a> {
    pub class: &'a str,
    pub key: &'a str,
    pub count: i64,
    pub offset: i64,
    pub size: &'a [i64],
    pub stride: &'a [i64],
}

impl View<'_> {
    /// All of [`FLOATS`], in storage 0.
    pub const FLOATS: View<'static> = View {
        class: "FloatStorage",
        key: "0",
        count: 6,
        offset: 0,
        size: &[2, 3],
        stride: &[3, 1],
    };

    /// As it is since PyTorch 1.6.
    pub fn pickled(&self) -> Vec<u8> {
        self.of(self.id())
    }

    /// As it was before.
    pub fn legacy(&self) -> Vec<u8> {
        let mut id = self.id();
        id.push(b"N".to_vec());
        self.of(id)
    }

    fn id(&self) -> Vec<Vec<u8>> {
        let class = global("torch", self.class);
        vec![text("storage"), class, text(self.key), text("cuda:0"), int(self.count)]
    }

    fn of(&self, id: Vec<Vec<u8>>) -> Vec<u8> {
        let whole = |numbers: &[i64]| tuple(&numbers.iter().map(|&n| int(n)).collect::<Vec<_>>());
        let storage = [tuple(&id), b"Q".to_vec()].concat();
        let rebuild = global("torch._utils", "_rebuild_tensor_v2");
        let hooks = ordered_dict();
        let (size, stride) = (whole(self.size), whole(self.stride));
        call(rebuild, &[storage, int(self.offset), size, stride, b"\x89".to_vec(), hooks])
    }
}

pub const FLOATS: [f32; 6] = [0.5, -1.25, 2.0, -3.5, 4.75, 6.0];

pub fn floats() -> Vec<u8> {
    FLOATS.iter().flat_map(|f| f.to_le_bytes()).collect()
}

/// A pickle of protocol 2.
pub fn pickle(of: &[u8]) -> Vec<u8> {
    [b"\x80\x02", of, b"."].concat()
}

/// A record of an archive.
#[derive(Clone)]
pub struct Record {
    pub name: String,
    pub data: Vec<u8>,
    pub method: u16,
    /// What the directory says of it, where it is not so.
    pub len: Option<u32>,
    pub at: Option<u32>,
}

impl Record {
    pub fn new(name: &str, data: &[u8]) -> Self {
        Self { name: name.into(), data: data.to_vec(), method: 0, len: None, at: None }
    }
}

/// The records of a file: the pickle of an object, and [`FLOATS`] as storage 0.
pub fn records(object: &[u8]) -> Vec<Record> {
    vec![
        Record::new("some/data.pkl", &pickle(object)),
        Record::new("some/byteorder", b"little"),
        Record::new("some/data/0", &floats()),
        Record::new("some/version", b"3\n"),
    ]
}

pub fn archive(records: &[Record]) -> Vec<u8> {
    let (mut bytes, mut directory) = (Vec::new(), Vec::new());
    for record in records {
        let len = (record.data.len() as u32).to_le_bytes();
        let said = record.len.map_or(len, u32::to_le_bytes);
        let at = record.at.unwrap_or(bytes.len() as u32).to_le_bytes();
        let name_len = (record.name.len() as u16).to_le_bytes();
        let fixed = [&[0; 2], &record.method.to_le_bytes(), &[0; 4][..], &[0; 4]].concat();
        let name = record.name.as_bytes();
        bytes.extend(
            [b"PK\x03\x04\0\0", &fixed[..], &len, &len, &name_len, &[0; 2], name, &record.data]
                .concat(),
        );
        directory.extend(
            [b"PK\x01\x02\0\0\0\0", &fixed[..], &said, &said, &name_len, &[0; 12], &at, name]
                .concat(),
        );
    }
    let count = (records.len() as u16).to_le_bytes();
    let [len, at] = [directory.len(), bytes.len()].map(|n| (n as u32).to_le_bytes());
    let end = [b"PK\x05\x06\0\0\0\0", &count[..], &count, &len, &at, &[0; 2]].concat();
    [bytes, directory, end].concat()
}

/// A file with one object and storage 0.
pub fn file(object: &[u8]) -> Vec<u8> {
    archive(&records(object))
}

/// The magic number of files before PyTorch 1.6.
pub const MAGIC: &[u8] = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.";

/// Before PyTorch 1.6: the parts of a file.
#[derive(Clone)]
pub struct Legacy {
    pub protocol: i64,
    pub little_endian: bool,
    pub object: Vec<u8>,
    pub keys: Vec<&'static str>,
    pub count: i64,
}

impl Legacy {
    pub fn new(object: Vec<u8>) -> Self {
        Self { protocol: 1001, little_endian: true, object, keys: vec!["0"], count: 6 }
    }

    pub fn bytes(&self) -> Vec<u8> {
        let little = if self.little_endian { b"\x88" } else { b"\x89" };
        let keys: Vec<_> = self.keys.iter().map(|key| text(key)).collect();
        let storages =
            self.keys.iter().flat_map(|_| [&self.count.to_le_bytes()[..], &floats()].concat());
        [
            MAGIC.to_vec(),
            pickle(&int(self.protocol)),
            pickle(&dict(&[(text("little_endian"), little.to_vec())])),
            pickle(&self.object),
            pickle(&list(&keys)),
            storages.collect(),
        ]
        .concat()
    }
}
