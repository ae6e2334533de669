"""ONNX, by torch's exporter and the packages ``onnx`` and ``onnxscript``, which the extra ``onnx`` installs.

Only the modules that write and read a file need them: an engine takes :mod:`qat.export.onnx.names` without.
"""
