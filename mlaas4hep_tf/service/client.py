"""A client of the service, for programs that announce data and wait for models."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import urlencode

import urllib3

from mlaas4hep_tf.errors import RegistryError
from mlaas4hep_tf.registry.targets import TOKEN


class ServiceClient:
    """Asks a training service.

    Args:
        url: of the service.
        token: bearer token; by default that of the environment, ``MLAAS4HEP_TOKEN``.
    """

    def __init__(self, url: str, token: str | None = None) -> None:
        self._url, self._token = url.rstrip("/"), token or os.environ.get(TOKEN)
        self._http = urllib3.PoolManager(timeout=120, retries=False)

    def announce(self, project: str, files: Iterable[str | Mapping[str, str]]) -> int:
        """Tell of files, as URLs or ``{"url", "uuid"}``; returns how many are new."""
        return int(self._ask("POST", "/v1/data", {"project": project, "files": list(files)})["new"])

    def jobs(self, project: str | None = None) -> list[dict[str, Any]]:
        """Jobs, the newest first."""
        query = f"?{urlencode({'project': project})}" if project else ""
        return list(self._ask("GET", f"/v1/jobs{query}")["jobs"])

    def job(self, number: int) -> dict[str, Any]:
        """A job with its curves and what the gate was told."""
        return self._ask("GET", f"/v1/jobs/{number}")

    def cancel(self, number: int) -> dict[str, Any]:
        """End a job."""
        return self._ask("POST", f"/v1/jobs/{number}/cancel", {})

    def retry(self, number: int) -> dict[str, Any]:
        """Let a job go on that failed or was cancelled."""
        return self._ask("POST", f"/v1/jobs/{number}/retry", {})

    def wait(self, project: str, jobs: int = 1, seconds: float = 3600) -> dict[str, Any]:
        """The newest job of a project, when so many have ended.

        Raises:
            RegistryError: they have not, in time.
        """
        end = time.monotonic() + seconds
        while True:
            found = self.jobs(project)
            if len(found) >= jobs and found[0]["ended"] is not None:
                return self.job(found[0]["id"])
            if time.monotonic() > end:
                state = found[0]["state"] if found else "none is queued"
                raise RegistryError(f"{jobs} jobs of project {project!r} have not ended in {seconds:g} s: {state}")
            time.sleep(0.2)

    def search(self, query: str = "") -> list[dict[str, Any]]:
        """Versions that a search finds, the best first."""
        return list(self._ask("GET", f"/v1/models?{urlencode({'q': query})}")["versions"])

    def promote(self, name: str, version: int, canary: float | None = None) -> dict[str, Any]:
        """Serve a version, to all or as a canary."""
        return self._ask("POST", f"/v1/models/{name}/promote", {"version": version, "canary": canary})

    def rollback(self, name: str) -> dict[str, Any]:
        """Back to the version before."""
        return self._ask("POST", f"/v1/models/{name}/rollback", {})

    def _ask(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        headers = {"Authorization": f"Bearer {self._token}"} if self._token else {}
        if body is not None:
            headers["Content-Type"] = "application/json"
        try:
            response = self._http.request(
                method, self._url + path, body=None if body is None else json.dumps(body), headers=headers
            )
            content = json.loads(response.data)
        except (urllib3.exceptions.HTTPError, ValueError) as error:
            raise RegistryError(f"{self._url} does not answer as a training service: {error}") from error
        if response.status >= 400:
            raise RegistryError(f"{self._url}{path} refuses with {response.status}: {content.get('detail', content)}")
        return dict(content)
