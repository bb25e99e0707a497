"""From a model to the program that is fastest somewhere, with the proof that it still gives the same labels.

Tree::

    request.py      what can be asked for
    packages.py     what must be installed for it
    original.py     the model as it is: an fp32 program with its card, and the torch module where there is one
    torch_module.py torch modules on their way to a file
    coreml_package.py  and to Core ML, where no tile can judge them
    tissue_tiles.py tiles drawn from the tissue of real slides, to calibrate and to judge on
    quantisation.py int8: ranges of activations, Q/DQ nodes
    sensitivity.py  which layers stay in float so that the gate is passed
    judging.py      the exported program against the original, on every runtime that takes it
    writing.py      graph surgery on ONNX programs, and OpenVINO's format
    quiet.py        what libraries print meanwhile
    benching.py     `wsi-seg bench`
    exporting.py    the order of all this
    report.py       what is told
"""

from wsi_seg.export.exporting import export_model
from wsi_seg.export.report import ExportReport
from wsi_seg.export.request import FORMATS, METHODS, ExportRequest

__all__ = ["FORMATS", "METHODS", "ExportReport", "ExportRequest", "export_model"]
