"""Exit with 0 while the gateway at `GATEWAY_ADDRESS` (default 127.0.0.1:8080) is alive."""

import json
import os
import sys
import urllib.request

address = os.environ.get("GATEWAY_ADDRESS", "127.0.0.1:8080")
with urllib.request.urlopen(f"http://{address}/healthz", timeout=2) as reply:
    sys.exit(json.load(reply)["status"] != "ok")
