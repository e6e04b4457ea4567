"""Reads metrics from stdin as the Prometheus project's own Python client does, and prints each metric
with its type and number of samples as one line of JSON. Fails on what cannot be parsed."""

import json
import sys

from prometheus_client.parser import text_string_to_metric_families

for family in text_string_to_metric_families(sys.stdin.read()):
    # The parser takes `_total` from the names of counters.
    name = family.name + ("_total" if family.type == "counter" else "")
    print(json.dumps({"name": name, "type": family.type, "samples": len(family.samples)}))
