"""
A node of a running Ray, asked by the sources that poll: nothing joins the cluster, no job is made.

It is asked over gRPC. Its dashboard is asked over HTTP, for Serve.
"""

from __future__ import annotations

import importlib
import json
import time
import urllib.request
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from raytrail.errors import ConfigError, SourceUnavailable
from raytrail.ray_calls import failed

_ANSWER_SECONDS = 20.0
_DEAD = 1  # GcsNodeInfo.GcsNodeState
_NOT_FOUND = 17  # StatusCode::NotFound, src/ray/common/status.h
_SERVE = {"name": "SERVE_CONTROLLER_ACTOR", "ray_namespace": "serve"}  # ray/serve/_private/constants.py
_DASHBOARD = {"namespace": b"dashboard", "key": b"dashboard"}  # ray/_private/ray_constants.py


class RayNode:
    """
    A node: its raylet, and the GCS of its cluster.

    Tokens and TLS are Ray's: RAY_AUTH_MODE, RAY_AUTH_TOKEN, RAY_USE_TLS and so on, as for any driver.

    Args:
        gcs_address: ``host:port``.
        node_id: The id of one of the cluster's nodes, in hex.

    Raises:
        ConfigError: Ray is not installed here, or does not let us in.
        SourceUnavailable: The GCS does not answer, or the node is not alive.
    """

    def __init__(self, gcs_address: str, node_id: str) -> None:
        self.node_id = node_id
        self._gcs_address = gcs_address
        try:
            # the whole of Ray comes with them: half a second of work and 60 MB
            self._grpc = importlib.import_module("grpc")
            self._gcs_calls = importlib.import_module("ray.core.generated.gcs_service_pb2")
            self._raylet_calls = importlib.import_module("ray.core.generated.node_manager_pb2")
            gcs = importlib.import_module("ray.core.generated.gcs_service_pb2_grpc")
            raylet = importlib.import_module("ray.core.generated.node_manager_pb2_grpc")
            channels, open_channel = importlib.import_module("ray._private.gcs_utils"), _channels().init_grpc_channel
        except ImportError as error:
            raise ConfigError(
                f"placement groups, workers, objects and Serve need Ray: {error}; run the agent in Ray's environment, "
                "with ray[default]"
            ) from error
        self._gcs_channel = channels.create_gcs_channel(gcs_address)
        self._groups = gcs.PlacementGroupInfoGcsServiceStub(self._gcs_channel)
        self._workers = gcs.WorkerInfoGcsServiceStub(self._gcs_channel)
        self._actors = gcs.ActorInfoGcsServiceStub(self._gcs_channel)
        self._key_values = gcs.InternalKVGcsServiceStub(self._gcs_channel)
        try:
            self._address = self._find(gcs.NodeInfoGcsServiceStub(self._gcs_channel))
        except BaseException:
            self._gcs_channel.close()
            raise
        self._raylet_channel = open_channel(self._address, options=channels._GRPC_OPTIONS)
        self._raylet = raylet.NodeManagerServiceStub(self._raylet_channel)

    def placement_groups(self) -> Sequence[Any]:
        """
        Return what the GCS knows of every placement group, removed ones among them (`PlacementGroupTableData`).

        Raises:
            ConfigError: Ray does not let us in.
            SourceUnavailable: The GCS does not answer.
        """
        request = self._gcs_calls.GetAllPlacementGroupRequest()
        answer = self._ask("GCS", self._gcs_address, self._groups.GetAllPlacementGroup, request)
        groups: Sequence[Any] = answer.placement_group_table_data
        return groups

    def workers(self) -> Sequence[Any]:
        """
        Return what the GCS knows of every worker, dead ones that it still remembers among them (`WorkerTableData`).

        Raises:
            ConfigError: Ray does not let us in.
            SourceUnavailable: The GCS does not answer.
        """
        request = self._gcs_calls.GetAllWorkerInfoRequest()
        answer = self._ask("GCS", self._gcs_address, self._workers.GetAllWorkerInfo, request)
        workers: Sequence[Any] = answer.worker_table_data
        return workers

    def serve_runs(self) -> bool:
        """
        Return whether there is a controller of Serve.

        Raises:
            ConfigError: Ray does not let us in.
            SourceUnavailable: The GCS does not answer.
        """
        request = self._gcs_calls.GetNamedActorInfoRequest(**_SERVE)
        answer = self._ask("GCS", self._gcs_address, self._actors.GetNamedActorInfo, request)
        return int(answer.status.code) != _NOT_FOUND

    def serve(self) -> dict[str, Any]:
        """
        Return what Serve's REST API says of its applications (`ServeInstanceDetails`).

        The dashboard joins the cluster for that, once, as soon as it is asked by anybody: ask where Serve runs.

        Raises:
            ConfigError: Ray does not let us in.
            SourceUnavailable: The GCS or the dashboard does not answer.
        """
        asked = self._ask(
            *("GCS", self._gcs_address, self._key_values.InternalKVGet),
            self._gcs_calls.InternalKVGetRequest(**_DASHBOARD),
        )
        address = asked.value.decode()
        if not address:
            raise SourceUnavailable("this Ray has no dashboard, which is what answers for Serve")
        url = f"http://{address}/api/serve/applications/"
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with direct.open(urllib.request.Request(url, headers=_token()), timeout=_ANSWER_SECONDS) as answer:
                details: dict[str, Any] = json.load(answer)
        except (OSError, ValueError) as error:
            raise SourceUnavailable(f"{url} does not answer ({error})") from error
        return details

    def objects(self, limit: int) -> tuple[Any, int, int]:
        """
        Return the references that the node's workers hold, with what its store has created until then.

        Args:
            limit: The most references of one worker. No further worker is asked once there are as many.

        Returns:
            A `GetObjectsInfoReply`, how many objects the node's store has created since it began, and when it said
            so, in nanoseconds since the epoch.

        Raises:
            ConfigError: Ray does not let us in.
            SourceUnavailable: The raylet does not answer.
        """
        request = self._raylet_calls.GetNodeStatsRequest(include_memory_info=False)
        # first: an object that is created between the two is then seen in the second, and not missed
        stats = self._ask("raylet", self._address, self._raylet.GetNodeStats, request)
        now_ns = time.time_ns()
        wanted = self._raylet_calls.GetObjectsInfoRequest(limit=limit)
        answer = self._ask("raylet", self._address, self._raylet.GetObjectsInfo, wanted)
        return answer, int(stats.store_stats.cumulative_created_objects), now_ns

    def close(self) -> None:
        """Close the connections."""
        self._raylet_channel.close()
        self._gcs_channel.close()

    def _find(self, nodes: Any) -> str:
        """Return the raylet's address."""
        answer = self._ask("GCS", self._gcs_address, nodes.GetAllNodeInfo, self._gcs_calls.GetAllNodeInfoRequest())
        for node in answer.node_info_list:
            if node.node_id.hex() == self.node_id and node.state != _DEAD:
                host = node.node_manager_address
                return f"[{host}]:{node.node_manager_port}" if ":" in host else f"{host}:{node.node_manager_port}"
        raise SourceUnavailable(f"node {self.node_id} is not alive, says the GCS at {self._gcs_address}")

    def _ask(self, who: str, address: str, call: Any, request: Any) -> Any:
        try:
            return call(request, timeout=_ANSWER_SECONDS)
        except self._grpc.RpcError as error:
            raise failed(error, f"{who} at {address}", SourceUnavailable) from error


def _token() -> dict[str, str]:
    """Return the header with Ray's token, where it asks for one."""
    try:
        tokens = importlib.import_module("ray._private.authentication.http_token_authentication")
    except ModuleNotFoundError:  # in Ray 2.48
        return {}
    headers: dict[str, str] = tokens.get_auth_headers_if_auth_enabled({})
    return headers


def _channels() -> ModuleType:
    """Return Ray's module that opens channels with its TLS and its token."""
    try:
        return importlib.import_module("ray._private.grpc_utils")
    except ModuleNotFoundError:
        return importlib.import_module("ray._private.utils")  # in Ray 2.48
