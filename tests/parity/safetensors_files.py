"""Reads safetensors files: https://huggingface.co/docs/safetensors"""
import json
import pathlib

import numpy as np
import torch

NUMPY = {"F32": np.float32, "F64": np.float64, "I32": np.int32, "I64": np.int64, "BF16": np.int16}


def read_file(path):
    """{name: tensor} of one file; the tensors map the file and are not to be written to."""
    with open(path, "rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(length))
    data = np.memmap(path, dtype=np.uint8, mode="c", offset=8 + length)
    tensors = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        begin, end = entry["data_offsets"]
        tensor = torch.from_numpy(data[begin:end].view(NUMPY[entry["dtype"]]).reshape(entry["shape"]))
        tensors[name] = tensor.view(torch.bfloat16) if entry["dtype"] == "BF16" else tensor
    return tensors


def read_folder(folder):
    """All tensors of the safetensors files of a folder, such as a checkpoint that one rank wrote."""
    files = sorted(pathlib.Path(folder).glob("*.safetensors"))
    if not files:
        raise SystemExit(f"{folder}: there are no safetensors files here")
    tensors = {}
    for file in files:
        tensors.update(read_file(file))
    return tensors
