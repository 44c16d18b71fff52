"""One of each resource, so that what is played meets more than what is not there."""

import json
import os
import urllib.error
import urllib.request
import uuid
from typing import Any

BASE_URL = os.environ["ROTA_BASE_URL"]
KEY = os.environ["ROTA_KEY"]
ADMIN_KEY = os.environ["ROTA_ADMIN_KEY"]

MANAGED_AGENTS = "managed-agents-2026-04-01"
BETAS = {
    "/v1/dreams": "dreaming-2026-04-21",
    "/v1/tunnels": "mcp-tunnels-2026-06-22",
    "/v1/user_profiles": "user-profiles-2026-08-18,google-managed-data-controls-2026-09-01",
}
"""The beta names beside that of the managed agents API, by the beginning of a path."""


def betas(path: str) -> str:
    own = next((name for beginning, name in BETAS.items() if path.startswith(beginning)), None)
    return ",".join(name for name in (MANAGED_AGENTS, own) if name)


def call(method: str, path: str, body: Any = None, *, key: str = KEY, data: bytes | None = None, media: str = "") -> Any:
    headers = {"x-api-key": key, "anthropic-beta": betas(path)}
    if body is not None:
        data, media = json.dumps(body).encode(), "application/json"
    if media:
        headers["content-type"] = media
    request = urllib.request.Request(BASE_URL + path, data=data, method=method, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as refused:
        raise AssertionError(f"{method} {path}: {refused.code} {refused.read().decode()}") from None


def upload(path: str, name: str, filename: str, content: bytes) -> Any:
    head = f'--edge\r\nContent-Disposition: form-data; name="{name}"; filename="{filename}"\r\n\r\n'.encode()
    body = head + content + b"\r\n--edge--\r\n"
    return call("POST", path, data=body, media="multipart/form-data; boundary=edge")


def unique(kind: str) -> str:
    return f"{kind}-{uuid.uuid4().hex[:12]}"


class World:
    """The ids of what is there, by the name of the parameter or field that takes them, and the key of a worker."""

    def __init__(self) -> None:
        self.ids: dict[str, list[str]] = {}
        endpoint = {"url": "https://nowhere.invalid/hook", "enabled_events": ["agent.created"]}
        endpoint = self.made("webhook_endpoint_id", "/rota/v1/webhook_endpoints", endpoint)
        toolset = [{"type": "agent_toolset_20260401"}]
        agent = {"name": unique("agent"), "model": "playbook", "tools": toolset}
        agent = self.made("agent_id", "/v1/agents", agent)
        environment = self.made("environment_id", "/v1/environments", {"name": unique("environment")})
        mine = {"name": unique("mine"), "config": {"type": "self_hosted"}}
        mine = self.made("environment_id", "/v1/environments", mine)
        message = {"type": "user.message", "content": [{"type": "text", "text": "hello"}]}
        start = {"agent": agent["id"], "environment_id": environment["id"]}
        session = self.made("session_id", "/v1/sessions", start)
        self.made("session_id", "/v1/sessions", {**start, "initial_events": [message]})
        work = call("POST", "/v1/sessions", {**start, "environment_id": mine["id"], "initial_events": [message]})
        self.ids["work_id"] = [work["id"]]
        self.ids["thread_id"] = [session["id"].replace("sesn_", "sthr_")]
        deployment = {**start, "name": unique("deployment"), "initial_events": [message]}
        deployment = self.made("deployment_id", "/v1/deployments", deployment)
        self.made("deployment_run_id", f"/v1/deployments/{deployment['id']}/run")
        store = self.made("memory_store_id", "/v1/memory_stores", {"name": unique("store")})
        memories = f"/v1/memory_stores/{store['id']}/memories"
        memory = self.made("memory_id", memories, {"path": "/a/b.md", "content": "one"})
        self.ids["memory_version_id"] = [memory["memory_version_id"]]
        call("POST", f"{memories}/{memory['id']}", {"content": "two"})
        file = upload("/v1/files", "file", "a.txt", b"content")
        self.ids["file_id"] = [file["id"]]
        self.made("resource_id", f"/v1/sessions/{session['id']}/resources", {"type": "file", "file_id": file["id"]})
        name = unique("skill")
        manifest = f"---\nname: {name}\ndescription: d\n---\nText.\n".encode()
        skill = upload("/v1/skills", "files[]", f"{name}/SKILL.md", manifest)
        self.ids["skill_id"], self.ids["version"] = [skill["id"]], ["latest", skill["latest_version_id"]]
        vault = self.made("vault_id", "/v1/vaults", {"display_name": unique("vault")})
        bearer = {"type": "static_bearer", "mcp_server_url": "https://nowhere.invalid/mcp", "token": "t"}
        self.made("credential_id", f"/v1/vaults/{vault['id']}/credentials", {"auth": bearer})
        self.made("user_profile_id", "/v1/user_profiles", {})
        self.made("tunnel_id", "/v1/tunnels", {"display_name": unique("tunnel")})
        inputs = [
            {"type": "memory_store", "memory_store_id": store["id"]},
            {"type": "sessions", "session_ids": [session["id"]]},
        ]
        self.made("dream_id", "/v1/dreams", {"inputs": inputs, "model": "playbook"})
        self.ids["model_id"], self.ids["agent"] = ["playbook"], [agent["id"]]
        told = call("GET", f"/rota/v1/webhook_endpoints/{endpoint['id']}/deliveries")["data"][0]
        self.ids["webhook_event_id"] = [told["id"]]
        keys = f"/rota/v1/environments/{mine['id']}/keys"
        key = call("POST", keys, {"name": "worker"})
        self.ids["environment_key_id"] = [call("POST", keys, {"name": "another"})["id"]]
        self.worker = key["secret"]
        workspace = call("POST", "/v1/organizations/workspaces", {"name": unique("played")}, key=ADMIN_KEY)
        self.ids["workspace_id"] = [workspace["id"]]

    def made(self, parameter: str, path: str, body: Any = None) -> Any:
        created = call("POST", path, body)
        self.ids.setdefault(parameter, []).append(created["id"])
        return created

    def key_for(self, path: str) -> str:
        """Whose key an operation takes."""
        if path.startswith("/v1/organizations/"):
            return ADMIN_KEY
        of_workers = path.endswith(("/work", "/work/poll", "/ack", "/heartbeat"))
        return self.worker if of_workers else KEY
