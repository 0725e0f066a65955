//! Pickles of protocol 2, as far as `torch.save` needs it for tensors in dictionaries.
//!
//! A pickle is a program for a machine with a stack. This one makes numbers, texts, lists, dictionaries, storages and
//! tensors, and nothing else: a name outside of [`Global`] is an error, and what the names in it would call is known
//! here. Values refer to objects by number, so that one that is used often is there once, and one that holds itself
//! or lies in a million others costs nothing to drop.

use std::collections::HashMap;
use std::io::{BufReader, Read};
use std::ops::Range;

use super::{Budget, Stored, Unreadable, damaged, shown};
use crate::weights::{Element, Reader};

/// The values that may wait on the stack: pickles are written in batches of a thousand.
const HIGHEST_STACK: usize = 1 << 16;
/// The bytes of a module or a name.
const LONGEST_NAME: usize = 1000;

/// What a pickle is made of.
#[derive(Clone, Copy, Debug)]
pub(super) enum Value {
    /// Nothing, a number with a fraction or of more than 64 bits: what says nothing about tensors.
    Other,
    None,
    Bool(bool),
    Int(i64),
    Global(Global),
    /// The number of an object.
    Object(usize),
}

/// What a pickle may name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Global {
    RebuildTensor,
    RebuildParameter,
    OrderedDict,
    Storage(Element),
}

impl Global {
    fn named(module: &str, name: &str) -> Option<Self> {
        Some(match (module, name) {
            ("torch._utils", "_rebuild_tensor_v2") => Self::RebuildTensor,
            ("torch._utils", "_rebuild_parameter") => Self::RebuildParameter,
            ("collections", "OrderedDict") => Self::OrderedDict,
            ("torch", name) => Self::Storage(match name.strip_suffix("Storage")? {
                "Double" => Element::F64,
                "Float" => Element::F32,
                "Half" => Element::F16,
                "BFloat16" => Element::Bf16,
                "Long" => Element::I64,
                "Int" => Element::I32,
                "Short" => Element::I16,
                "Char" => Element::I8,
                "Byte" => Element::U8,
                "Bool" => Element::Bool,
                _ => return None,
            }),
            _ => return None,
        })
    }
}

/// What has parts.
#[derive(Debug)]
pub(super) enum Object {
    Text(String),
    Tuple(Vec<Value>),
    List(Vec<Value>),
    Dict { entries: Vec<(Value, Value)>, ordered: bool },
    Storage(Box<Storage>),
    Tensor(Box<Tensor>),
}

/// Elements one behind the other, which tensors view.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Storage {
    pub key: String,
    pub element: Element,
    pub count: u64,
}

impl Storage {
    pub fn bytes(&self) -> Option<u64> {
        self.count.checked_mul(self.element.size() as u64)
    }
}

/// A view of a storage that is known to lie within it. The product of its sizes, were none of them 0, is a `usize`.
#[derive(Debug)]
pub(super) struct Tensor {
    /// The object that is its storage.
    pub storage: usize,
    /// The place of its first element in the storage.
    pub offset: u64,
    pub shape: Vec<usize>,
    /// Elements from one to the next, along each axis.
    pub strides: Vec<usize>,
}

/// What a pickle made.
pub(super) struct Pickle {
    pub root: Value,
    objects: Vec<Object>,
}

impl Pickle {
    /// What a value refers to.
    pub fn object(&self, value: Value) -> Option<&Object> {
        match value {
            Value::Object(i) => Some(&self.objects[i]),
            _ => None,
        }
    }

    pub fn text(&self, value: Value) -> Option<&str> {
        text(&self.objects, value)
    }

    pub fn storage(&self, i: usize) -> &Storage {
        match &self.objects[i] {
            Object::Storage(storage) => storage,
            other => unreachable!("a tensor's storage is {other:?}"),
        }
    }

    /// Every time a storage is named.
    pub fn storages(&self) -> impl Iterator<Item = &Storage> {
        self.objects.iter().filter_map(|object| match object {
            Object::Storage(storage) => Some(&**storage),
            _ => None,
        })
    }
}

fn text(objects: &[Object], value: Value) -> Option<&str> {
    match value {
        Value::Object(i) => match &objects[i] {
            Object::Text(text) => Some(text),
            _ => None,
        },
        _ => None,
    }
}

/// A part of a file, read from its start on.
pub(super) struct Input<'a> {
    reader: BufReader<Reader<'a>>,
    range: Range<u64>,
}

impl<'a> Input<'a> {
    pub fn new(source: &'a Stored, range: Range<u64>) -> Self {
        Self { reader: BufReader::new(source.reader(range.start)), range }
    }

    /// The place in the file of what is read next.
    pub fn at(&self) -> u64 {
        self.range.start
    }

    /// The bytes up to its end.
    pub fn left(&self) -> u64 {
        self.range.end - self.range.start
    }

    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], Unreadable> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn byte(&mut self) -> Result<u8, Unreadable> {
        self.array().map(|[byte]| byte)
    }

    pub fn skip(&mut self, bytes: u64) -> Result<(), Unreadable> {
        let offset = i64::try_from(bytes).map_err(|_| self.cut())?;
        self.take(bytes)?;
        Ok(self.reader.seek_relative(offset)?)
    }

    /// `len` bytes of UTF-8.
    fn text(&mut self, len: u64) -> Result<String, Unreadable> {
        if len > self.left() {
            return Err(self.cut());
        }
        let mut bytes = vec![0; len as usize];
        self.fill(&mut bytes)?;
        String::from_utf8(bytes).map_err(|_| damaged("a text of its pickle is not UTF-8"))
    }

    /// Text up to the end of a line.
    fn line(&mut self) -> Result<String, Unreadable> {
        let mut line = Vec::new();
        loop {
            match self.byte()? {
                b'\n' => break,
                _ if line.len() == LONGEST_NAME => {
                    return Err(damaged(format!("a name has more than {LONGEST_NAME} bytes")));
                }
                byte => line.push(byte),
            }
        }
        Ok(String::from_utf8_lossy(&line).into_owned())
    }

    fn fill(&mut self, out: &mut [u8]) -> Result<(), Unreadable> {
        self.take(out.len() as u64)?;
        Ok(self.reader.read_exact(out)?)
    }

    fn take(&mut self, bytes: u64) -> Result<(), Unreadable> {
        if bytes > self.left() {
            return Err(self.cut());
        }
        self.range.start += bytes;
        Ok(())
    }

    fn cut(&self) -> Unreadable {
        damaged(format!("its pickle is cut off at byte {}", self.range.end))
    }
}

/// Reads one pickle.
pub(super) fn read(input: &mut Input, budget: &mut Budget) -> Result<Pickle, Unreadable> {
    let mut machine = Machine {
        input,
        budget,
        objects: Vec::new(),
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
    };
    loop {
        let at = machine.input.at();
        match machine.step() {
            Ok(true) => {}
            Ok(false) => break,
            Err(Unreadable::Damaged(reason)) => {
                return Err(damaged(format!("{reason} (pickle, byte {at})")));
            }
            Err(io) => return Err(io),
        }
    }
    let Machine { stack, marks, objects, .. } = machine;
    match (&stack[..], &marks[..]) {
        (&[root], []) => Ok(Pickle { root, objects }),
        _ => Err(damaged(format!("its pickle ends with {} values instead of one", stack.len()))),
    }
}

struct Machine<'a, 'b> {
    input: &'a mut Input<'b>,
    budget: &'a mut Budget,
    objects: Vec<Object>,
    stack: Vec<Value>,
    /// Heights of the stack.
    marks: Vec<usize>,
    /// What is used again, by number.
    memo: HashMap<u32, Value>,
}

impl Machine<'_, '_> {
    /// One instruction; whether another follows.
    fn step(&mut self) -> Result<bool, Unreadable> {
        match self.input.byte()? {
            // PROTO
            0x80 => match self.input.byte()? {
                2 => {}
                other => {
                    return Err(damaged(format!("it has pickle protocol {other}, and 2 is read")));
                }
            },
            // STOP
            b'.' => return Ok(false),
            // MARK
            b'(' => match self.marks.len() < HIGHEST_STACK {
                true => self.marks.push(self.stack.len()),
                false => return Err(too_high()),
            },

            // NONE, NEWTRUE, NEWFALSE
            b'N' => self.push(Value::None)?,
            0x88 => self.push(Value::Bool(true))?,
            0x89 => self.push(Value::Bool(false))?,
            // BININT1, BININT2, BININT
            b'K' => {
                let [byte] = self.input.array()?;
                self.push(Value::Int(byte.into()))?;
            }
            b'M' => {
                let n = u16::from_le_bytes(self.input.array()?);
                self.push(Value::Int(n.into()))?;
            }
            b'J' => {
                let n = i32::from_le_bytes(self.input.array()?);
                self.push(Value::Int(n.into()))?;
            }
            // LONG1, LONG4
            0x8a => {
                let len = self.input.byte()?;
                self.long(len.into())?;
            }
            0x8b => {
                let len = i32::from_le_bytes(self.input.array()?);
                let len = u64::try_from(len)
                    .map_err(|_| damaged(format!("a number should have {len} bytes")))?;
                self.long(len)?;
            }
            // BINFLOAT
            b'G' => {
                self.input.array::<8>()?;
                self.push(Value::Other)?;
            }
            // BINUNICODE, and what Python 2 wrote instead: SHORT_BINSTRING, BINSTRING
            b'X' | b'T' => {
                let len = u32::from_le_bytes(self.input.array()?);
                self.text(len.into())?;
            }
            b'U' => {
                let len = self.input.byte()?;
                self.text(len.into())?;
            }

            // EMPTY_TUPLE, TUPLE1, TUPLE2, TUPLE3, TUPLE
            b')' => self.tuple(0)?,
            0x85 => self.tuple(1)?,
            0x86 => self.tuple(2)?,
            0x87 => self.tuple(3)?,
            b't' => {
                let values = self.marked()?;
                self.tuple(values)?;
            }
            // EMPTY_LIST, EMPTY_DICT
            b']' => self.push_object(Object::List(Vec::new()))?,
            b'}' => self.push_object(Object::Dict { entries: Vec::new(), ordered: false })?,
            // APPEND, APPENDS, SETITEM, SETITEMS
            b'a' => self.append(1)?,
            b'e' => {
                let values = self.marked()?;
                self.append(values)?;
            }
            b's' => self.set(2)?,
            b'u' => {
                let values = self.marked()?;
                self.set(values)?;
            }

            // BINPUT, LONG_BINPUT
            b'q' => {
                let slot = self.input.byte()?;
                self.put(slot.into())?;
            }
            b'r' => {
                let slot = u32::from_le_bytes(self.input.array()?);
                self.put(slot)?;
            }
            // BINGET, LONG_BINGET
            b'h' => {
                let slot = self.input.byte()?;
                self.get(slot.into())?;
            }
            b'j' => {
                let slot = u32::from_le_bytes(self.input.array()?);
                self.get(slot)?;
            }

            // GLOBAL
            b'c' => {
                let (module, name) = (self.input.line()?, self.input.line()?);
                match Global::named(&module, &name) {
                    Some(global) => self.push(Value::Global(global))?,
                    None => {
                        return Err(damaged(format!(
                            "it names `{}`, which is not read: only tensors in dictionaries are",
                            shown(&format!("{module}.{name}"))
                        )));
                    }
                }
            }
            // REDUCE, BUILD, BINPERSID
            b'R' => self.reduce()?,
            b'b' => self.build()?,
            b'Q' => self.storage()?,
            other => {
                return Err(damaged(format!(
                    "instruction 0x{other:02x} is none that torch.save writes for tensors"
                )));
            }
        }
        Ok(true)
    }

    fn push(&mut self, value: Value) -> Result<(), Unreadable> {
        if self.stack.len() == HIGHEST_STACK {
            return Err(too_high());
        }
        self.stack.push(value);
        Ok(())
    }

    fn push_object(&mut self, object: Object) -> Result<(), Unreadable> {
        self.budget.spend(size_of::<Object>())?;
        self.objects.push(object);
        self.push(Value::Object(self.objects.len() - 1))
    }

    /// The last `n` values, none of them below a mark.
    fn pop(&mut self, n: usize) -> Result<Vec<Value>, Unreadable> {
        let floor = self.marks.last().copied().unwrap_or(0);
        match self.stack.len().checked_sub(n) {
            Some(from) if from >= floor => Ok(self.stack.split_off(from)),
            _ => Err(damaged("an instruction finds too few values on the stack")),
        }
    }

    /// The object that the last value refers to.
    fn last(&mut self) -> Result<&mut Object, Unreadable> {
        match self.stack.last() {
            Some(&Value::Object(i)) => Ok(&mut self.objects[i]),
            other => Err(damaged(format!("an instruction should find an object, got {other:?}"))),
        }
    }

    /// How many values are above the last mark, which is taken away.
    fn marked(&mut self) -> Result<usize, Unreadable> {
        match self.marks.pop() {
            Some(height) => Ok(self.stack.len() - height),
            None => Err(damaged("an instruction finds no mark")),
        }
    }

    /// A whole number of so many bytes, with the lowest first and a sign in the highest.
    fn long(&mut self, len: u64) -> Result<(), Unreadable> {
        let mut bytes = [0; 8];
        let value = match bytes.get_mut(..len as usize) {
            None => {
                self.input.skip(len)?;
                Value::Other
            }
            Some(some) => {
                self.input.fill(some)?;
                if some.last().is_some_and(|&highest| highest >= 0x80) {
                    bytes[len as usize..].fill(0xff);
                }
                Value::Int(i64::from_le_bytes(bytes))
            }
        };
        self.push(value)
    }

    fn text(&mut self, len: u64) -> Result<(), Unreadable> {
        let text = self.input.text(len)?;
        self.budget.spend(text.len())?;
        self.push_object(Object::Text(text))
    }

    fn tuple(&mut self, n: usize) -> Result<(), Unreadable> {
        let values = self.pop(n)?;
        self.budget.spend(n * size_of::<Value>())?;
        self.push_object(Object::Tuple(values))
    }

    fn append(&mut self, n: usize) -> Result<(), Unreadable> {
        let values = self.pop(n)?;
        self.budget.spend(n * size_of::<Value>())?;
        match self.last()? {
            Object::List(list) => list.extend(values),
            other => return Err(damaged(format!("what is appended to is {}", kind(other)))),
        }
        Ok(())
    }

    fn set(&mut self, n: usize) -> Result<(), Unreadable> {
        let values = self.pop(n)?;
        self.budget.spend(n * size_of::<Value>())?;
        let (pairs, []) = values.as_chunks() else {
            return Err(damaged("a key comes without a value"));
        };
        match self.last()? {
            Object::Dict { entries, .. } => entries.extend(pairs.iter().map(|&[k, v]| (k, v))),
            other => return Err(damaged(format!("what gets a key is {}", kind(other)))),
        }
        Ok(())
    }

    fn put(&mut self, slot: u32) -> Result<(), Unreadable> {
        let Some(&value) = self.stack.last() else {
            return Err(damaged("nothing is on the stack to be remembered"));
        };
        if self.memo.insert(slot, value).is_none() {
            self.budget.spend(size_of::<(u32, Value)>())?;
        }
        Ok(())
    }

    fn get(&mut self, slot: u32) -> Result<(), Unreadable> {
        match self.memo.get(&slot) {
            Some(&value) => self.push(value),
            None => Err(damaged(format!("nothing was remembered as {slot}"))),
        }
    }

    fn of_tuple(&self, value: Value) -> Option<&[Value]> {
        match value {
            Value::Object(i) => match &self.objects[i] {
                Object::Tuple(values) => Some(values),
                _ => None,
            },
            _ => None,
        }
    }

    /// Would call: a tensor, a parameter, an ordered dictionary.
    fn reduce(&mut self) -> Result<(), Unreadable> {
        let values = self.pop(2)?;
        let arguments = self.of_tuple(values[1]);
        match (values[0], arguments) {
            (Value::Global(Global::RebuildTensor), Some(arguments)) => {
                let tensor = self.tensor(arguments)?;
                self.budget.spend(size_of::<Tensor>() + 2 * size_of_val(&tensor.shape[..]))?;
                self.push_object(Object::Tensor(Box::new(tensor)))
            }
            (Value::Global(Global::RebuildParameter), Some(&[data, _, _])) => match data {
                Value::Object(i) if matches!(self.objects[i], Object::Tensor(_)) => self.push(data),
                _ => Err(damaged("a parameter is no tensor")),
            },
            (Value::Global(Global::OrderedDict), Some([])) => {
                self.push_object(Object::Dict { entries: Vec::new(), ordered: true })
            }
            (Value::Global(global), _) => {
                Err(damaged(format!("{global:?} should not be called with these arguments")))
            }
            _ => Err(damaged("it calls what is no function")),
        }
    }

    /// A tensor of (storage, offset, size, stride, requires_grad, hooks).
    fn tensor(&self, arguments: &[Value]) -> Result<Tensor, Unreadable> {
        let &[Value::Object(storage), Value::Int(offset), size, stride, _, _] = arguments else {
            return Err(damaged("a tensor has other arguments than torch.save writes"));
        };
        let Object::Storage(of) = &self.objects[storage] else {
            return Err(damaged("a tensor's storage is none"));
        };
        let count = of.count;
        let (Some(size), Some(stride)) = (self.of_tuple(size), self.of_tuple(stride)) else {
            return Err(damaged("a tensor's size or stride is no tuple"));
        };
        let whole = |values: &[Value]| -> Option<Vec<usize>> {
            let each = values.iter().map(|value| match *value {
                Value::Int(n) => usize::try_from(n).ok(),
                _ => None,
            });
            each.collect()
        };
        let (Some(shape), Some(strides), Ok(offset)) =
            (whole(size), whole(stride), u64::try_from(offset))
        else {
            return Err(damaged(
                "a tensor's size, stride or offset is negative or no whole number",
            ));
        };
        let beyond = || {
            damaged(format!(
                "a tensor of shape {shape:?}, strides {strides:?} and offset {offset} does not lie within its \
                 storage of {count} elements"
            ))
        };
        if shape.len() != strides.len() {
            return Err(beyond());
        }
        // Also of tensors without elements: shapes are multiplied out elsewhere.
        let product = shape.iter().try_fold(1usize, |n, &size| n.checked_mul(size.max(1)));
        product.filter(|&n| isize::try_from(n).is_ok()).ok_or_else(beyond)?;
        if !shape.contains(&0) {
            let last = shape.iter().zip(&strides).try_fold(offset, |last, (&size, &stride)| {
                last.checked_add((size as u64 - 1).checked_mul(stride as u64)?)
            });
            if last.is_none_or(|last| last >= count) {
                return Err(beyond());
            }
        }
        Ok(Tensor { storage, offset, shape, strides })
    }

    /// Would set attributes: those of an ordered dictionary are not needed.
    fn build(&mut self) -> Result<(), Unreadable> {
        let state = self.pop(1)?[0];
        let state =
            matches!(state, Value::Object(i) if matches!(self.objects[i], Object::Dict { .. }));
        match self.last()? {
            Object::Dict { ordered: true, .. } if state => Ok(()),
            other => Err(damaged(format!("it sets attributes of {}", kind(other)))),
        }
    }

    /// A storage of ('storage', class, key, location, count), and where older files view a part of one, that.
    fn storage(&mut self) -> Result<(), Unreadable> {
        let id = self.pop(1)?[0];
        let of = match self.of_tuple(id) {
            Some(&[kind, Value::Global(Global::Storage(element)), key, _, Value::Int(count)])
            | Some(
                &[
                    kind,
                    Value::Global(Global::Storage(element)),
                    key,
                    _,
                    Value::Int(count),
                    Value::None,
                ],
            ) if text(&self.objects, kind) == Some("storage") => {
                text(&self.objects, key).zip(u64::try_from(count).ok()).map(|of| (element, of))
            }
            _ => None,
        };
        let Some((element, (key, count))) = of else {
            return Err(damaged("a storage is described otherwise than torch.save does"));
        };
        self.budget.spend(size_of::<Storage>() + key.len())?;
        let storage = Storage { key: key.into(), element, count };
        self.push_object(Object::Storage(Box::new(storage)))
    }
}

fn too_high() -> Unreadable {
    damaged(format!("more than {HIGHEST_STACK} values wait on the stack"))
}

fn kind(object: &Object) -> &'static str {
    match object {
        Object::Text(_) => "a text",
        Object::Tuple(_) => "a tuple",
        Object::List(_) => "a list",
        Object::Dict { ordered: false, .. } => "a plain dictionary",
        Object::Dict { ordered: true, .. } => "an ordered dictionary",
        Object::Storage(_) => "a storage",
        Object::Tensor(_) => "a tensor",
    }
}
