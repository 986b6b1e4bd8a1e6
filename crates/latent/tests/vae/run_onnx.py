"""Runs an ONNX file on rows of little-endian floats, and writes each output to a file of its own.

Arguments: the ONNX file, the file of rows, the width of a row, the folder of the outputs.
"""

import pathlib
import sys

import numpy
import onnxruntime

path, rows, width, folder = sys.argv[1:]
session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
values = numpy.fromfile(rows, dtype="<f4").reshape(-1, int(width))
outputs = session.run(None, {session.get_inputs()[0].name: values})
for number, output in enumerate(outputs):
    output.astype("<f4").tofile(pathlib.Path(folder) / f"{number}.f32")
