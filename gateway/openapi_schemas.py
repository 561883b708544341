"""Pure: what answers look like, as JSON Schema. Objects may hold more than is named here, as protocol messages may."""

from typing import Any

import msgspec

from hotpool.messages import MAX_CLASSES, QueueReport, WorkerReport
from hotpool.states import Phase

from .orders import Fields, Login, Order, Promote, Start, Undo, Update

Schema = dict[str, Any]

REF = "#/components/schemas/"
TEXT: Schema = {"type": "string"}
NUMBER: Schema = {"type": "number"}
PERCENT: Schema = {"type": "number", "minimum": 0, "maximum": 100}
WHOLE: Schema = {"type": "integer", "minimum": 0}
TRUTH: Schema = {"type": "boolean"}
ANYTHING: Schema = {"type": "object"}


def ref(name: str) -> Schema:
    return {"$ref": REF + name}


def listed(schema: Schema) -> Schema:
    return {"type": "array", "items": schema}


def by_name(schema: Schema) -> Schema:
    return {"type": "object", "additionalProperties": schema}


def or_null(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def one_of(*words: str) -> Schema:
    return {"type": "string", "enum": list(words)}


def closed(**fields: Schema) -> Schema:
    """All of these, and nothing else."""
    return {**open_object(**fields), "additionalProperties": False}


def open_object(**fields: Schema) -> Schema:
    """All of these, and perhaps more."""
    return {"type": "object", "required": list(fields), "properties": fields}


VERSION = open_object(
    digest=TEXT, name=TEXT, model=TEXT, arch=TEXT, classes=WHOLE, labels=listed(TEXT), precision=one_of("fp32", "int8"),
    preprocess=one_of("fast", "exact"), preprocessing=ANYTHING, source=TEXT, added_by=TEXT, added_ts=TEXT,
    parent=or_null(TEXT), agreement=or_null(ANYTHING),
)  # fmt: skip
ROLLOUT = open_object(
    number=WHOLE, model=TEXT, kind=TEXT, stable=TEXT, stable_name=TEXT, target=TEXT, target_name=TEXT, workers=listed(TEXT),
    settings=ANYTHING, operator=TEXT, reason=TEXT, created_ts=TEXT, phase=one_of(*Phase), paused=TRUTH,
    pause_cause=or_null(TEXT), analysis=ANYTHING, judged=listed(ANYTHING), steps=listed(ANYTHING), ended_steps=listed(ANYTHING),
    cause=TEXT, ending=TEXT, ended_ts=TEXT,
)  # fmt: skip
VERDICT = open_object(
    gate=TEXT,
    result=one_of("pass", "fail", "inconclusive"),
    enforced=TRUTH,
    reason=TEXT,
    numbers=by_name(NUMBER),
    progress=NUMBER,
)
TRAFFIC = closed(
    at=NUMBER, queue=WHOLE, unserved=NUMBER,
    versions=by_name(closed(rate=NUMBER, p50_ms=or_null(NUMBER), p99_ms=or_null(NUMBER), errors=NUMBER)),
)  # fmt: skip
TENSOR = open_object(name=TEXT, datatype=TEXT, shape=listed({"type": "integer", "minimum": -1}))
_CLASSES: Schema = {"type": "integer", "minimum": 1, "maximum": MAX_CLASSES}
INFER_REQUEST: Schema = {
    "type": "object",
    "required": ["inputs"],
    "properties": {
        "id": or_null(TEXT),
        "parameters": or_null({"type": "object", "properties": {"top": _CLASSES, "binary_data_output": TRUTH}}),
        "inputs": {
            **listed(
                open_object(
                    name=one_of("image", "pixels", "tensor"), datatype=one_of("BYTES", "UINT8", "FP32"),
                    shape=listed({"type": "integer", "minimum": 1}),
                )
            ),
            "minItems": 1,
            "maxItems": 1,
        },
        "outputs": or_null(
            listed(open_object(name=one_of("probabilities", "logits", "top_labels", "top_probabilities", "top_indices")))
        ),
    },
}  # fmt: skip
SCHEMAS: dict[str, Schema] = {
    "Prediction": closed(
        model=TEXT, version=TEXT, digest=TEXT, worker=TEXT, queue_ms=NUMBER, service_ms=NUMBER,
        predictions=listed(closed(index=WHOLE, label=TEXT, probability=NUMBER)),
    ),
    "InferRequest": INFER_REQUEST,
    "InferResponse": open_object(model_name=TEXT, model_version=TEXT, outputs=listed(TENSOR)),
    "Version": VERSION,
    "StoredVersion": {"allOf": [ref("Version"), open_object(use=one_of("", "stable", "previous stable", "target"))]},
    "Rollout": ROLLOUT,
    "RolloutNow": closed(
        message=TEXT, rollout=ref("Rollout"), workers=listed(ref("WorkerReport")), verdicts=listed(VERDICT),
        share=or_null(closed(asked=PERCENT, measured=or_null(PERCENT))), counts=or_null(ANYTHING),
    ),
    "Status": closed(
        health=one_of("healthy", "degraded"), reasons=listed(TEXT), model=TEXT, stable=or_null(closed(name=TEXT, digest=TEXT)),
        broker=closed(uptime_s=NUMBER, epoch=WHOLE, boot=WHOLE),
        controller=closed(is_running=TRUTH, pid=or_null(WHOLE), epoch=WHOLE),
        queue=ref("QueueReport"), rollout=or_null(ref("Rollout")), workers=listed(ref("WorkerReport")), alarm=TEXT,
    ),
    "Job": closed(
        job=WHOLE, state=one_of("running", "done", "failed"), seconds=NUMBER, version=or_null(ref("Version")), is_stable=TRUTH,
        code=TEXT, error=TEXT, rollout=or_null(WHOLE),
    ),
    "Event": closed(
        seq=WHOLE, ts=TEXT, epoch=WHOLE, kind=TEXT, model=TEXT, rollout=or_null(WHOLE), operator=TEXT, body=ANYTHING
    ),
    "Session": closed(is_admin=TRUTH, operator=or_null(TEXT), inference_needs_token=TRUTH),
    "Traffic": TRAFFIC,
    "Ordered": closed(rollout=ref("Rollout")),
    "Undone": closed(result=one_of("ordered", "planned", "aborted"), rollout=ref("Rollout")),
    "Started": closed(result=one_of("ordered", "planned", "unchanged"), rollout=or_null(ref("Rollout"))),
    "Updating": closed(rollout=or_null(WHOLE), job=or_null(WHOLE), watch=TEXT),
    **msgspec.json.schema_components(
        [WorkerReport, QueueReport, Fields, Login, Order, Promote, Start, Undo, Update], ref_template=REF + "{name}"
    )[1],
}  # fmt: skip
