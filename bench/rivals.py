"""Shell: others' engines with the same network, each on one thread; requirements-bench.txt installs them.

What is set, and why, is in docs/performance.md.
"""

import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

if TYPE_CHECKING:
    import openvino

FloatArray = NDArray[np.float32]
Forward = Callable[[], FloatArray]  # logits of the batch it was prepared for
Prepare = Callable[[FloatArray], Forward]  # takes an (n, 3, h, w) batch; what it does itself is not timed

INPUT, OUTPUT = "input", "logits"


def eager(network: torch.nn.Module, layout: torch.memory_format) -> Prepare:
    ours: Any = network  # torch's own hints don't know `memory_format`
    ours.to(memory_format=layout)

    def prepare(batch: FloatArray) -> Forward:
        tensor = torch.from_numpy(batch).contiguous(memory_format=layout)

        def forward() -> FloatArray:
            with torch.inference_mode():
                logits: FloatArray = ours(tensor).numpy()
            return logits

        return forward

    return prepare


def write_onnx(network: torch.nn.Module, image: FloatArray, file: Path) -> None:
    """With batch norms folded, any batch size. By the older of torch's two exporters: the newer one needs onnxscript too."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(
            network, (torch.from_numpy(image),), file, dynamo=False, input_names=[INPUT], output_names=[OUTPUT],
            dynamic_axes={INPUT: {0: "n"}, OUTPUT: {0: "n"}},
        )  # fmt: skip


def onnx_runtime(onnx: Path) -> Prepare:
    import onnxruntime

    def prepare(batch: FloatArray) -> Forward:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_free_dimension_override_by_name("n", len(batch))
        session = onnxruntime.InferenceSession(str(onnx), options, providers=["CPUExecutionProvider"])
        return lambda: session.run([OUTPUT], {INPUT: batch})[0]

    return prepare


def openvino_fp32(onnx: Path) -> Prepare:
    # Without the hint it computes in bfloat16 where the processor can: another precision, and four digits fewer.
    return _openvino(_import_openvino().Core().read_model(onnx), {"INFERENCE_PRECISION_HINT": "f32"})


def write_int8(onnx: Path, calibration: FloatArray, file: Path) -> None:
    """OpenVINO's own format, quantised by NNCF as its manual says for convolutional networks, with all of its defaults."""
    openvino = _import_openvino()
    import nncf

    images = nncf.Dataset([image[None] for image in calibration])
    model = nncf.quantize(openvino.Core().read_model(onnx), images, subset_size=len(calibration))
    openvino.save_model(model, file, compress_to_fp16=False)


def openvino_int8(file: Path) -> Prepare:
    return _openvino(_import_openvino().Core().read_model(file), {})


def _openvino(model: "openvino.Model", options: Mapping[str, Any]) -> Prepare:
    core = _import_openvino().Core()
    one_thread = {
        "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1, "INFERENCE_NUM_THREADS": 1,
        "ENABLE_CPU_PINNING": False,  # the process is pinned already
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,  # or else it may quantise activations anew in each forward pass
    }  # fmt: skip

    def prepare(batch: FloatArray) -> Forward:
        fixed = model.clone()
        fixed.reshape(list(batch.shape))
        openvino = _import_openvino()
        steps = openvino.preprocess.PrePostProcessor(fixed)
        steps.input().tensor().set_layout(openvino.Layout("NHWC"))
        steps.input().model().set_layout(openvino.Layout("NCHW"))
        compiled = core.compile_model(steps.build(), "CPU", {**one_thread, **options})
        request, rows = compiled.create_infer_request(), np.ascontiguousarray(batch.transpose(0, 2, 3, 1))
        return lambda: request.infer({INPUT: rows}, share_inputs=True, share_outputs=True)[OUTPUT]

    return prepare


def _import_openvino() -> Any:
    # Importing it or nncf would report to their makers over the network and leave files in the home folder.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino
