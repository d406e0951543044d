"""Pure choice: which variants may answer a request, and which one does when a worker is free.

Map
---
- `constraints.py` what a caller asks for: bounds, which of them are soft, the objective
- `narrow.py`      the stricter of what a caller asks and what its key allows
- `candidate.py`   one variant as the router sees it: measured numbers and whether it may serve
- `fleet.py`       the load: workers, and requests that wait
- `correction.py`  service times as workers really take them; `sketch.py` holds the quantiles
- `estimate.py`    when would this request finish: work ahead plus a quantile of service time
- `admission.py`   at arrival: `admit` answers admitted, infeasible or overloaded
- `gate.py`        admission for one state of the candidates: what the load does not change is kept
- `judge.py`       one candidate against every bound, on an idle machine
- `relax.py`       after a refusal: the binding bound and the cheapest single relaxation
- `decision.py`    what admission answers, with every reason
- `cascade.py`     may a cascade answer, judged as a whole
- `dispatch.py`    when a worker is free: drop the hopeless, ask the policy
- `sharing.py`     which model goes next, each with its share guaranteed
- `residency.py`   the slow loop: what stays open where, within a budget of bytes
- `waiting.py`     the queue in order; `kind.py` what makes requests alike
- `outlook.py`     what each kind can expect of a worker, worked out once
- `gears.py`       the variant of each kind at each price of worker time; `utility.py` its worth
- `forecast.py`    what is to arrive, by what has arrived
- `view.py`        what a policy sees and what it answers
- `policies/`      one file per policy; the file name is the registration
- `lookahead.py`   does the queue still make its deadlines after this choice
- `batching.py`    which queued requests may share one run
- `weights.py`     a weighted objective on normalised axes
- `ranking.py`     what "best" means for each objective; ties break by variant id
- `simulate.py`  the same policies in discrete events, on measured service times
- `rollout.py`     which requests a canary gets, and when it has shown enough; `sequential.py` holds
                   the intervals that may be looked at after every request
- `promise.py`     does a variant run as fast as its profile promised
- `explain.py`     numbers and sentences for people

No I/O, no clock, no randomness: time comes in as `now_s`, so equal inputs give equal answers and
the live gateway and a simulator run the same objects. Knows nothing of HTTP, processes or storage.
"""
