"""Runs questions in Spark: a JSON object on standard input, rows on standard output."""
import json
import sys

from pyspark.sql import SparkSession, functions, types

asked = json.load(sys.stdin)
builder = SparkSession.builder.appName("taptrail lake sql")
# Without a URL, spark-defaults.conf and SPARK_REMOTE decide.
if asked["server"] is not None:
    connect = asked["server"].startswith("sc://")
    builder = builder.remote(asked["server"]) if connect else builder.master(asked["server"])
session = builder.getOrCreate()
for question in asked["questions"]:
    for statement in question["before"]:
        session.sql(statement)
    answer = session.sql(question["query"])
    # Python's times would be of this process's zone: microseconds since 1970 are not.
    columns = [
        functions.unix_micros(answer[field.name]).alias(field.name)
        if isinstance(field.dataType, types.TimestampType)
        else answer[field.name].cast("string").alias(field.name)
        if isinstance(field.dataType, types.DateType)
        else answer[field.name]
        for field in answer.schema.fields
    ]
    for row in answer.select(columns).collect():
        print(json.dumps(list(row)))
    print("end", flush=True)
session.stop()
