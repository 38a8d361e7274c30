#!/usr/bin/env python3
"""tests/unit/data/tfevents: what the tensorboard package's own writer and messages make of the events in
tests/unit/test_tfevents.c.  Needs: pip install tensorboard.  Usage: make_tfevents.py OUT
With a second operand, an event folder that qlora-train wrote, prints its scalars as TensorBoard reads them."""
import struct, sys
from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.summary.writer.record_writer import RecordWriter

if len(sys.argv) > 2:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    a = EventAccumulator(sys.argv[2], size_guidance={"scalars": 0})
    a.Reload()
    for tag in sorted(a.Tags()["scalars"]):
        for s in a.Scalars(tag):
            print(tag, s.step, s.value)
    sys.exit()
f = open(sys.argv[1], "wb")
w = RecordWriter(f)
w.write(event_pb2.Event(wall_time=1763784000.0, file_version="brain.Event:2").SerializeToString())
w.write(event_pb2.Event(wall_time=1763784000.125, step=300, session_log=event_pb2.SessionLog(status=event_pb2.SessionLog.START)).SerializeToString())
for i, (tag, step, value) in enumerate([("train/loss", 0, 2.25), ("train/loss", 1, float("nan")), ("train/lr", 128, 1e-4),
                                        ("eval/" + "x" * 200, 2**40, float("-inf"))]):
    v = summary_pb2.Summary.Value(tag=tag, simple_value=value)
    w.write(event_pb2.Event(wall_time=1763784001.5 + i, step=step, summary=summary_pb2.Summary(value=[v])).SerializeToString())
f.flush()
