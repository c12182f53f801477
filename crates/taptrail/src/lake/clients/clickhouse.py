"""Runs questions in ClickHouse's Python module: a JSON object on standard input, rows on standard output."""
import json
import sys

import chdb

asked = json.load(sys.stdin)
for question in asked["questions"]:
    for statement in question["before"]:
        chdb.query(statement)
    rows = chdb.query(question["query"], "JSONCompactEachRow").bytes().decode()
    sys.stdout.write(rows if rows.endswith("\n") or not rows else rows + "\n")
    print("end", flush=True)
