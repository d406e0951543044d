"""The gateway: one endpoint over every variant of every model.

Map
---
- `serve.py`         starts the workers, then `server.py`, the uvicorn process
- `factory.py`       `create_app(options)`: everything is constructed here and handed down
- `gateway.py`       one request from constraints to answer; the routes are thin edges over it
- `cascade.py`       a cheap variant first, a better one for the rows that it is unsure of
- `catalog.py`       the immutable snapshot of models and variants that requests are routed by
- `engine/`          deadline queues, worker processes, leases, online correction
- `body.py`          request bodies to tensors; `images.py` decodes pictures, `texts.py` tokenises,
                     `binary.py` reads and writes raw tensors
- `headers.py`       RFC 9651 request headers to `Constraints`, and the reply's headers
- `errors.py`        the one table from errors to statuses; RFC 9457 problem documents
- `protocol.py`      bytes to requests: limits and deadlines of a request's head
- `http_edge.py`     around every route: request ids, body limits, callers that leave
- `room.py`          how many bytes of bodies may be on their way at once
- `inference.py`     one inference request without its transport: head, body, answer
- `direct.py`        `/infer` straight from the connection, without ASGI, for plain requests
- `receiving.py`     uploads on their way: how many, how many bytes, how much of the disk
- `preconditions.py` tags, If-Match and 304 of control routes; `idempotency.py` POSTs sent twice
- `paging.py`        long listings, page by page
- `access.py`        which scope each route needs, and who calls
- `keys.py`          the valid keys and their check; `peppers.py` the secret behind them;
                     `bad_keys.py` who tries keys; `keys_cli.py` the commands
- `tenant.py`        one key at work: its rate (`rate.py`), its money, what it used
- `ledger.py`        between tenants and database: usage goes there, dollars come from there
- `changes.py`       follows what others change in the database; `recovery.py` settles their remains
- `sweeper.py`       sweeps what nothing refers to; `logs.py` logs without stopping anybody
- `registration.py`  new variants, through the gates to where they are wanted
- `progress.py`      how far a registration is, for those who follow it
- `gates.py`         what a new artifact must pass; `findings.py` what each gate found
- `signing.py`       artifacts that somebody must have signed
- `switches.py`      what each variant is for: activate, try, deactivate, retire
- `rollouts.py`      shadows and canaries: who is sent there, what is seen, what follows;
                     `shadow.py` runs copies of requests
- `promises.py`      variants that run slower than they were measured to
- `metrics.py`       every Prometheus series, recorded in one place; `tallies.py` counts cheaply,
                     `label_names.py` bounds how many series there are
- `decisions.py`     the last decisions, for `GET /v1/decisions/{id}`
- `routes/`          one file per group of routes; `schemas.py` and `openapi*.py` describe them
- `settings.py`      every option, once; `cli.py`, `doctor.py`, `demo.py` are commands

Knows nothing of how variants are built; never imports torch.
"""
