"""The offline program: one model in, a ladder of measured variants and a Pareto report out.

Map
---
- `plan.py`        the plan file, checked whole before any work
- `user_model.py`  the user's Python file: which functions it may offer, loaded by path
- `data.py`        the three splits and the calibration rows, from Python or from `.npz`
- `anatomy.py`     the layers of a model, so that what does not suit it is refused at once
- `texts.py`       texts to token numbers, for a model file's rows
- `bench.py`       what a technique may use while it works
- `training.py`    one training loop for the reference and for every fine-tuning
- `weights.py`     torch weights as safetensors, so that a later build can go on from them
- `resize.py`      a module in the sizes of stored weights
- `factors.py`     layers in factors: ranks for each layer, and the same form again (`ranks.py`)
- `blocks.py`      blocks that can be left out
- `retrain.py`     fine-tuning towards the parent's answers
- `gauge.py`       how far a change moves the answers on calibration rows
- `export.py`      torch module to ONNX with a dynamic batch
- `onnx_weights.py` the weights of an exported file and smaller forms to keep them in
- `rounded_layers.py` layers that train with rounded weights and export as integers
- `quantised.py`   static int8 by ONNX Runtime's quantiser and by NNCF
- `architectures.py` image classifiers of three families by name
- `students.py`    the student of a distillation: the user's, the parent made smaller, or by name
- `teacher.py`     the teacher's answers, kept or live, and the lesson that a student gets
- `taps.py`        outputs of a module's inner parts, in pairs of teacher and student
- `sensitivity.py` how much the answers change when one layer alone is changed
- `simplify.py`    exact changes of an exported graph
- `techniques/`    one file per technique; the file name is the registration
- `stage.py`       the loaded source with its workshop and its rows
- `scores.py`      a variant's scores on one split, kept beside its record
- `proportions.py` intervals and a test for shares, single and paired
- `evaluate.py`    what the scores say: reference, worst class, confidence, drift of an export
- `cascades.py`    from which confidence on a cheap variant may answer alone
- `records.py`     what became of each build, refusals and failures too
- `build.py`       the loop: key → skip or build → measure → gate → publish
- `search.py`      looks for better chains and knobs than the plan's (`goal.py`: its aim;
  `proposals.py`: what it may try; `findings.py`: what it found)
- `progress.py`    progress bars with time left
- `fetch.py`       data from packages, checked and cached
- `pareto.py`      which variants nobody beats
- `report.py`      the measured ladder as a table and as JSON
- `page.py`        the same as HTML, one page a model, with a picture (`figure.py`)
- `cli.py`         `gearshift build` and `gearshift report`

Never imported by the gateway. torch and matplotlib are imported inside functions, so reading a
plan, skipping what exists and asking for help load neither.
"""
