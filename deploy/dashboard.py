#!/usr/bin/env python3
"""Writes grafana-dashboard.json, which is beside it.

    python3 deploy/dashboard.py
    python3 deploy/dashboard.py --print    only shows what it would write

Each row answers a question. Values that are read from the store are the same on each of several servers, so they are not summed.
"""

import json
import pathlib
import sys

RATE = "[$__rate_interval]"
SELECT = 'job=~"$job"'


def rate(metric, by="", more=""):
    labels = SELECT + (f",{more}" if more else "")
    grouped = f" by ({by})" if by else ""
    return f"sum{grouped} (rate({metric}{{{labels}}}{RATE}))"


def most(metric, by="", more=""):
    labels = SELECT + (f",{more}" if more else "")
    grouped = f" by ({by})" if by else ""
    return f"max{grouped} ({metric}{{{labels}}})"


def quantile(share, metric, by=""):
    grouped = f"le, {by}" if by else "le"
    return f"histogram_quantile({share}, sum by ({grouped}) (rate({metric}_bucket{{{SELECT}}}{RATE})))"


def increase(metric, span, by="", more=""):
    labels = SELECT + (f",{more}" if more else "")
    grouped = f" by ({by})" if by else ""
    return f"sum{grouped} (increase({metric}{{{labels}}}[{span}]))"


FAILED = 'reason=~"retries_exhausted|terminated|refusal"'

# Question, then panels: title, unit, queries with the names of their lines, and what to know.
ROWS = [
    ("Is the server well", [
        ("Servers alive", "none", [(most("rota_servers_alive"), "alive")], "Servers on the store that run sessions.", "stat"),
        ("The store answers", "none", [(f"min (rota_store_up{{{SELECT}}})", "store")], "1 when every server reaches it.", "stat"),
        ("Version", "none", [(f"max by (version, database) (rota_build_info{{{SELECT}}})", "{{version}} on {{database}}")], "", "stat"),
        ("Disk left", "percentunit",
         [(f"min (rota_disk_free_bytes{{{SELECT}}} / rota_disk_size_bytes{{{SELECT}}})", "left")],
         "Of the file system of the data folder.", "stat"),
    ]),
    ("Did it fire", [
        ("Fires", "cpm", [(f"60 * {rate('rota_deployment_runs_total', 'outcome')}", "{{outcome}}")],
         "All runs, by hand too. What is not session_created did not start."),
        ("Lateness of fires", "s", [(quantile(0.5, "rota_fire_lateness_seconds"), "half"),
                                    (quantile(0.99, "rota_fire_lateness_seconds"), "99 %"),
                                    (most("rota_schedule_behind_seconds"), "due and not looked at")],
         "From when an occurrence was due until its run was made."),
        ("Occurrences without a run", "short", [(increase("rota_schedule_gaps_total", "1h", "reason"), "{{reason}}")],
         "Looks that passed some over, in the hour before."),
        ("Deployments that fail", "none", [(most("rota_deployments_failing"), "failing")],
         "Their newest runs have all failed. `/rota/v1/attention` names them.", "stat"),
    ]),
    ("Did it work", [
        ("Turns that ended", "cpm", [(f"60 * {rate('rota_sessions_ended_total', 'reason')}", "{{reason}}")], ""),
        ("What turns died of", "short", [(increase("rota_sessions_ended_total", "1h", "reason, error", FAILED), "{{reason}}: {{error}}")],
         "In the hour before."),
        ("Steps that are tried again", "cpm", [(f"60 * {rate('rota_session_retries_total', 'error')}", "{{error}}")], ""),
        ("Sandboxes", "short", [(f"sum (rota_sandboxes_up{{{SELECT}}})", "up"),
                                (increase("rota_sandbox_starts_total", "1h", "", 'outcome="failed"'), "failed to start, 1 h"),
                                (increase("rota_sandboxes_killed_total", "1h", "reason"), "{{reason}} ran out, 1 h")], ""),
    ]),
    ("What waits", [
        ("Sessions not at rest", "short", [(most("rota_sessions", "state", 'state!="resting"'), "{{state}}")],
         "Those that wait for a human go on when somebody answers."),
        ("The longest wait", "s", [(most("rota_sessions_oldest_seconds", "state"), "{{state}}")], ""),
        ("Requests in line before models", "short", [(f"sum by (upstream) (rota_model_requests_waiting{{{SELECT}}})", "{{upstream}}")], ""),
        ("Webhooks not delivered", "short", [(most("rota_webhook_deliveries", "state"), "{{state}}"),
                                             (most("rota_webhook_endpoints_disabled"), "endpoints disabled")], ""),
        ("Sessions at rest", "short", [(most("rota_sessions", "", 'state="resting"'), "at rest")],
         "Counted every five minutes at most.", "stat"),
    ]),
    ("What it costs", [
        ("Cost an hour", "currencyUSD", [(f"3600e-9 * {rate('rota_model_cost_nanos_total', 'model')}", "{{model}}")],
         "At the prices of the configuration."),
        ("Cost of the last 24 hours", "currencyUSD", [(f"1e-9 * {increase('rota_model_cost_nanos_total', '24h', 'model')}", "{{model}}")], "", "stat"),
        ("Tokens", "cpm", [(f"60 * {rate('rota_model_tokens_total', 'kind')}", "{{kind}}")], ""),
        ("Requests to models", "cpm", [(f"60 * {rate('rota_model_requests_total', 'upstream, outcome')}", "{{upstream}} {{outcome}}")], ""),
        ("Time of a request to a model", "s", [(quantile(0.5, "rota_model_request_seconds", "upstream"), "{{upstream}} half"),
                                               (quantile(0.95, "rota_model_request_seconds", "upstream"), "{{upstream}} 95 %")], ""),
    ]),
    ("How the server does", [
        ("Requests", "reqps", [(rate("rota_http_requests_total", "status"), "{{status}}")], ""),
        ("Time of requests", "s", [(quantile(0.99, "rota_http_request_seconds"), "99 %")], ""),
        ("Commits", "s", [(quantile(0.5, "rota_commit_seconds"), "half"), (quantile(0.99, "rota_commit_seconds"), "99 %")],
         "How long a transaction took until it was durable."),
        ("Writes", "short", [(f"max (rota_write_queue_writes{{{SELECT}}})", "in the queue"),
                             (f"{rate('rota_commit_writes_sum')} / {rate('rota_commit_writes_count')}", "in a transaction"),
                             (f"60 * {rate('rota_commit_failures_total')}", "failed transactions a minute")], ""),
        ("Reads under way", "short", [(f'max by (instance) (rota_database_read_connections{{{SELECT},state="busy"}})', "{{instance}}")], ""),
        ("Size of the store", "bytes", [(most("rota_store_size_bytes"), "store"),
                                        (f"min (rota_disk_free_bytes{{{SELECT}}})", "disk left")], ""),
        ("Memory", "bytes", [(f"process_resident_memory_bytes{{{SELECT}}}", "{{instance}}")], "Without the sandboxes."),
        ("Processor", "percentunit", [(f"rate(process_cpu_seconds_total{{{SELECT}}}{RATE})", "{{instance}}")], "1 is one core."),
        ("Open files", "percentunit", [(f"process_open_fds{{{SELECT}}} / process_max_fds{{{SELECT}}}", "{{instance}}")], ""),
        ("Connections of sandboxes", "short", [(f"sum (rota_egress_connections_open{{{SELECT}}})", "open"),
                                               (f"60 * {rate('rota_egress_connections_total', 'outcome')}", "{{outcome}} a minute")], ""),
    ]),
]

SOURCE = {"type": "prometheus", "uid": "${source}"}


def panel(number, place, title, unit, queries, about, kind="timeseries"):
    targets = [
        {"refId": chr(ord("A") + at), "datasource": SOURCE, "expr": expr, "legendFormat": legend}
        for at, (expr, legend) in enumerate(queries)
    ]
    made = {
        "id": number, "type": kind, "title": title, "description": about, "gridPos": place, "datasource": SOURCE,
        "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []}, "targets": targets,
    }
    if kind == "stat":
        made["options"] = {"reduceOptions": {"calcs": ["lastNotNull"]}, "textMode": "value_and_name"}
    return made


def main():
    panels, y = [], 0
    for question, members in ROWS:
        panels.append({"id": len(panels) + 1, "type": "row", "title": question, "collapsed": False, "panels": [],
                       "gridPos": {"h": 1, "w": 24, "x": 0, "y": y}})
        y += 1
        for at, (title, unit, queries, about, *kind) in enumerate(members):
            place = {"h": 7, "w": 6, "x": at % 4 * 6, "y": y + at // 4 * 7}
            panels.append(panel(len(panels) + 1, place, title, unit, queries, about, *kind))
        y += (len(members) + 3) // 4 * 7
    variables = [
        {"name": "source", "label": "Prometheus", "type": "datasource", "query": "prometheus"},
        {"name": "job", "label": "Job", "type": "query", "datasource": SOURCE, "includeAll": True, "multi": True,
         "query": "label_values(rota_build_info, job)", "refresh": 2, "current": {"text": "All", "value": "$__all"}},
    ]
    dashboard = {
        "uid": "rota", "title": "Rota", "tags": ["rota"], "schemaVersion": 39, "editable": True, "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"}, "templating": {"list": variables}, "panels": panels,
    }
    text = json.dumps(dashboard, indent=1, ensure_ascii=False) + "\n"
    if sys.argv[1:] == ["--print"]:
        sys.stdout.buffer.write(text.encode())
    else:
        pathlib.Path(__file__).with_name("grafana-dashboard.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
