"""Writes JSON schemas of JobSet, TrainingRuntime and TrainJob into a folder, one file a kind.

They are made from the models in Kubeflow's package, and are stricter: unknown fields are refused, as
in the strict validation of an API server.
"""

import json
import pathlib
import sys

from kubeflow_trainer_api import models

KINDS = {
    "JobSet": ("jobset.x-k8s.io/v1alpha2", models.JobsetV1alpha2JobSet),
    "TrainingRuntime": ("trainer.kubeflow.org/v1alpha1", models.TrainerV1alpha1TrainingRuntime),
    "TrainJob": ("trainer.kubeflow.org/v1alpha1", models.TrainerV1alpha1TrainJob),
}


def refuse_the_unknown(node):
    if isinstance(node, dict):
        if "properties" in node:
            node["additionalProperties"] = False
        node = list(node.values())
    if isinstance(node, list):
        for part in node:
            refuse_the_unknown(part)


def schema(kind, version, model):
    made = model.model_json_schema(by_alias=True)
    refuse_the_unknown(made)
    for name in made["$defs"]:
        # In a file these are plain numbers or texts; the models wrap them.
        if name.endswith(("IntOrString", "ResourceQuantity")):
            made["$defs"][name] = {"type": ["string", "number"]}
    made["properties"] |= {"apiVersion": {"const": version}, "kind": {"const": kind}}
    made["required"] = ["apiVersion", "kind", "metadata", "spec"]
    return made


folder = pathlib.Path(sys.argv[1])
for kind, (version, model) in KINDS.items():
    (folder / f"{kind}.json").write_text(json.dumps(schema(kind, version, model)))
