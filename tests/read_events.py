"""Reads a folder of event files with TensorBoard's own reader, and prints their steps as JSON."""

import glob
import json
import os
import sys

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.plugins.hparams import metadata

folder = sys.argv[1]
everything = {"scalars": 0, "images": 0, "tensors": 0}
events = EventAccumulator(folder, size_guidance=everything, purge_orphaned_data=True)
events.Reload()
tags = events.Tags()

hparams = {}
for file in sorted(glob.glob(os.path.join(folder, "events*"))):
    for event in EventFileLoader(file).Load():
        for value in event.summary.value:
            if value.tag == metadata.SESSION_START_INFO_TAG:
                content = value.metadata.plugin_data.content
                start = metadata.parse_session_start_info_plugin_data(content)
                for name, setting in start.hparams.items():
                    hparams[name] = getattr(setting, setting.WhichOneof("kind"))

# For older forms of data, the loader turns scalars into tensors.
scalars = {tag: [event.step for event in events.Scalars(tag)] for tag in tags["scalars"]}
for tag in tags["tensors"]:
    if not tag.startswith("_hparams_") and tag != "samples":
        scalars[tag] = [event.step for event in events.Tensors(tag)]
images = {tag: [event.step for event in events.Images(tag)] for tag in tags["images"]}
if "samples" in tags["tensors"]:
    images["samples"] = [event.step for event in events.Tensors("samples")]

print(json.dumps({"scalars": scalars, "images": images, "hparams": hparams}))
