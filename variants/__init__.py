"""The ground floor: what a variant is, where it lies, and how it is run and measured.

Map
---
- `spec.py`        what a model promises: tensors, task, labels, how inputs are prepared
- `profile.py`     what was measured: accuracy with its interval, latency, memory, load time
- `evidence.py`    what an evaluation found out beyond accuracy: pairs, confidence, cascades
- `confidence.py`  how sure a classifier is of an answer, in calibration and in service
- `manifest.py`    one variant's whole record and its only serialised form
- `terms.py`       what a key may do: models, bounds, rate, money; `usage_table.py` what it used
- `lifecycle.py`   the states a variant moves through, as one table
- `store.py`       content-addressed blobs and manifests on disk; `digest.py` what names a blob
- `uploads.py`     blobs that have not arrived whole yet
- `database.py`    one transaction at a time; `migrations/` holds its schema, `tables.py` says it
- `sqlite_file.py` and `postgres.py` are its backends; `claims.py` who is at work on what
- `sessions.py`    connections to PostgreSQL that end when no answer comes; `silence.py` is it there
- `registry.py`    models and variants in it; `key_table.py` keys; `audit.py` who changed what
- `versions.py`    who may change what they last saw; `replies.py` answers that are given again
- `retention.py`   what nothing refers to any more; `backup.py` consistent copies, and back
- `tokenizer.py`   texts to token numbers, the same in build and gateway
- `agreement.py`   how alike two variants' answers to the same rows are
- `evaluation.py`  labelled held-out data as one safetensors blob
- `artifact.py`    what an ONNX file must look like before anything loads it; `wire.py` walks it
                   before anything parses it
- `runtimes/`      one file per runtime; the file name is the registration
- `measure.py`     accuracy, latency, memory and load time of one artifact on one runtime
- `trial.py`       the same in a throw-away process with limits; `surroundings.py` its variables
- `cost.py`        dollars from seconds and bytes
- `json_keys.py`   JSON objects whose keys must all differ
- `toml_file.py`   a TOML file read into a pydantic model, with errors that name the line

Knows nothing of HTTP, routing or how a variant was built. torch is never imported here.
"""
