"""Who reaches whom is what docs/patterns/network-policies.md says, and nothing more."""

import re
import sys
from copy import deepcopy

import pytest

from .conftest import COMBINATIONS, FURTHER
from .manifests import (
    K8S,
    OVERLAYS,
    ROOT,
    Manifests,
    combined,
    containers,
    overlay,
)
from .reach import OPAQUE, End, authorized, ends, meshed, reaches, servers

sys.path.insert(0, str(K8S))

from cluster import edges

DOCUMENT = ROOT / "docs" / "patterns" / "network-policies.md"


WHY = dict(edges(DOCUMENT.read_text()))
EDGES = {edge for edge, why in WHY.items() if not why.startswith("with `")}
"""Every connection between pods that the platform needs: caller, callee, port."""

DATA = (5432, 6379, 26379)
EXPORTERS = {("gateway", 9113), ("postgres-exporter", 9187), ("redis-exporter", 9121)}
"""Where Prometheus reads what they say of the data stores and of nginx."""
PORTS = (
    *(80, 443, OPAQUE, 8000, 8080, 8081, 8443, 9090, *DATA),
    *(port for _name, port in sorted(EXPORTERS)),
)
OPERATOR = End("operator", {"app.kubernetes.io/name": "cloudnative-pg"}, "cnpg-system")
API = End("address of the cluster's API", address="10.20.0.1")
STRANGER = End("stranger", {"app.kubernetes.io/name": "gateway"}, "default")
PROMETHEUS = End("prometheus", {"app.kubernetes.io/name": "prometheus"}, "monitoring")
GRAFANA = End("grafana", {"app.kubernetes.io/name": "grafana"}, "monitoring")
DNS = End("dns", {"k8s-app": "kube-dns"}, "kube-system")
CONTROLLER = End("etcd", {"component": "etcd"}, "kube-system")
PUBLIC = End("somebody", address="203.0.113.7")
METADATA = End("metadata of the cloud", address="169.254.169.254")


def matrix(manifests):
    """All connections between pods that come about."""
    pods = ends(manifests)
    return {
        (caller, callee, port)
        for caller, one in pods.items()
        for callee, other in pods.items()
        for port in PORTS
        if caller != callee and reaches(manifests, one, other, port)
    }


def wanted(manifests):
    """The edges whose ends are there."""
    pods, proxied = ends(manifests), meshed(manifests)
    plain = {edge for edge in WHY if {edge[0], edge[1]} <= set(pods)}
    return plain | {
        (caller, callee, OPAQUE)
        for caller, callee, port in plain
        if port in DATA and callee in proxied
    }


@pytest.fixture(scope="module")
def local():
    return overlay("local")


class TestMatrix:
    @pytest.mark.parametrize("name", OVERLAYS)
    def test_is_that_of_the_architecture(self, name):
        """Every allowed pair is allowed, and each of the others is refused."""
        assert matrix(overlay(name)) == wanted(overlay(name))

    @pytest.mark.parametrize(
        "components",
        [names for names in COMBINATIONS if "network-policies" in names],
        ids="+".join,
    )
    def test_is_the_same_in_every_combination(self, components):
        manifests = combined(components)

        assert matrix(manifests) == wanted(manifests)

    @pytest.mark.parametrize(("name", "further"), FURTHER)
    def test_is_the_same_in_an_overlay_with_a_component_more(self, name, further):
        manifests = combined((further,), f"overlays/{name}")

        assert matrix(manifests) == wanted(manifests)

    def test_is_written_once_and_has_a_reason(self):
        found = list(edges(DOCUMENT.read_text()))
        components = {path.name for path in (K8S / "components").iterdir()}

        assert len(found) == len(WHY)
        for _edge, why in found:
            named = re.match(r"with `([a-z-]+)`: .", why)
            assert len(why) > 10
            assert named is None or named[1] in components

    def test_has_every_pair_of_the_local_overlay(self, local):
        assert wanted(local) == EDGES
        # The document says how many others are refused.
        pods = len(ends(local))
        others = pods * (pods - 1) * len(PORTS) - len(EDGES)
        said = f"{len(EDGES)} edges in the local overlay: {others:,} other connections"
        assert said in DOCUMENT.read_text()

    def test_lets_everything_through_without_the_component(self):
        manifests = combined(("data",))
        pods = ends(manifests)

        assert reaches(manifests, STRANGER, pods["postgres"], 5432)


class TestOutside:
    def test_is_let_in_at_the_gateway_alone(self, local):
        found = {
            (name, port)
            for name, end in ends(local).items()
            for port in PORTS
            for other in (PUBLIC, STRANGER)
            if reaches(local, other, end, port)
        }

        assert found == {("gateway", 8080), ("gateway", 8443)}

    def test_is_reached_by_nobody(self, local):
        for one in ends(local).values():
            for other in (PUBLIC, METADATA, STRANGER, CONTROLLER, GRAFANA):
                assert not any(reaches(local, one, other, port) for port in PORTS)

    def test_is_asked_for_measurements_by_web_alone(self, local):
        found = {
            (name, port)
            for name, end in ends(local).items()
            for port in PORTS
            if reaches(local, end, PROMETHEUS, port)
        }

        assert found == {("web", 9090)}

    def test_is_reached_by_those_who_need_it(self):
        manifests = combined(("network-policies", "outside"))
        found = {
            (name, port)
            for name, end in ends(manifests).items()
            for port in (25, 80, 443, 465, 587, 5432)
            if reaches(manifests, end, PUBLIC, port)
        }

        assert found == {
            *((one, 443) for one in ("auth", "catalog", "gateway")),
            ("worker-bulk", 443),
            *(("worker-interactive", port) for port in (443, 465, 587)),
        }

    def test_holds_nothing_private(self):
        manifests = combined(("network-policies", "outside"))
        inside = ("10.1.2.3", "172.20.0.1", "192.168.1.1", "100.64.0.9", "127.0.0.1")
        private = [METADATA, *(End(one, address=one) for one in inside)]

        for one in ends(manifests).values():
            for other in private:
                assert not reaches(manifests, one, other, 443)

    def test_tells_names(self, local):
        for one in ends(local).values():
            assert reaches(local, one, DNS, 53, "UDP")
            assert reaches(local, one, DNS, 53)
            assert not reaches(local, one, CONTROLLER, 53, "UDP")

    def test_reads_metrics_if_it_is_prometheus(self, local):
        scraped = {
            (name, port)
            for name, end in ends(local).items()
            for port in PORTS
            if reaches(local, PROMETHEUS, end, port)
        } - {("gateway", 8080), ("gateway", 8443)}

        assert {name for name, _port in scraped} == {
            name
            for name, end in ends(local).items()
            if end.labels["app.kubernetes.io/component"] in {"http", "process"}
        }
        assert {port for _name, port in scraped} == {8000}
        assert not reaches(local, GRAFANA, ends(local)["auth"], 8000)


class TestManagedData:
    @pytest.mark.parametrize("name", ["production", "staging"])
    def test_is_reached_by_those_who_would_reach_it_in_the_cluster(self, name):
        manifests = overlay(name)
        data = {
            "postgres": (End("a", address="10.20.0.10"), 5432),
            "redis-store": (End("b", address="10.20.0.20"), 6379),
            "redis-cache": (End("c", address="10.20.0.30"), 6379),
        }
        found = {
            (caller, store, port)
            for caller, end in ends(manifests).items()
            for store, (address, port) in data.items()
            if reaches(manifests, end, address, port)
        }

        callers = ends(manifests)
        assert found == {edge for edge in WHY if edge[1] in data and edge[0] in callers}


class TestExporters:
    """Who says what a data store or nginx says of itself."""

    def scraped(self, manifests, *others):
        return {
            (name, port)
            for name, end in ends(manifests).items()
            for other in others
            for port in PORTS
            if reaches(manifests, other, end, port)
        } - {("gateway", 8080), ("gateway", 8443)}

    def test_are_read_by_prometheus_alone(self):
        base = ("data", "network-policies")
        manifests = combined((*base, "exporters"))

        assert self.scraped(manifests, PROMETHEUS) == EXPORTERS | self.scraped(
            combined(base), PROMETHEUS
        )
        assert self.scraped(manifests, GRAFANA, STRANGER, PUBLIC, CONTROLLER) == set()

    @pytest.mark.parametrize(
        ("components", "edges"),
        [
            (
                ("data", "network-policies", "exporters"),
                {
                    ("postgres-exporter", "postgres", 5432),
                    ("redis-exporter", "redis-cache", 6379),
                    ("redis-exporter", "redis-store", 6379),
                },
            ),
            (
                (
                    *("data", "network-policies", "exporters"),
                    *("cloudnative-pg", "redis-sentinel"),
                ),
                {
                    ("postgres-exporter", "postgres", 5432),
                    ("redis-exporter", "redis-cache", 6379),
                    ("redis-exporter", "redis-nodes", 6379),
                },
            ),
        ],
        ids=["single", "several"],
    )
    def test_reach_what_they_tell_of_and_nothing_else(self, components, edges):
        manifests = combined(components)
        found = matrix(manifests)

        assert {edge for edge in found if edge[0].endswith("-exporter")} == edges
        assert not {edge for edge in found if edge[1].endswith("-exporter")}
        for name in ("postgres-exporter", "redis-exporter"):
            one = ends(manifests)[name]
            assert reaches(manifests, one, DNS, 53, "UDP")
            for other in (PUBLIC, METADATA, API, PROMETHEUS, STRANGER):
                assert not any(reaches(manifests, one, other, port) for port in PORTS)

    @pytest.mark.parametrize(
        "name", ["to-gateway", "to-postgres-exporter", "to-redis-exporter"]
    )
    def test_are_noticed_when_they_are_open(self, name):
        manifests = combined(("data", "network-policies", "exporters"))
        spoiled = changed(manifests, name, lambda spec: spec["ingress"][-1].pop("from"))

        assert len(self.scraped(spoiled, STRANGER)) == 1


class TestReplicated:
    """Data stores of several pods in the cluster."""

    @pytest.fixture
    def several(self):
        return combined(
            ("data", "network-policies", "cloudnative-pg", "redis-sentinel")
        )

    @pytest.mark.parametrize("name", ["postgres-roles", "redis-sentinel"])
    def test_take_the_place_of_single_ones(self, several, name):
        assert not {"redis-store", "StatefulSet postgres"} & set(ends(several))
        assert matrix(several) == wanted(several)
        assert name in ends(several)

    @pytest.mark.parametrize(
        ("name", "ports"),
        [
            ("postgres", {5432, 8000}),
            ("redis-nodes", {6379}),
            ("redis-sentinel", {26379}),
        ],
    )
    def test_reach_their_like(self, several, name, ports):
        one = ends(several)[name]

        assert {port for port in PORTS if reaches(several, one, one, port)} == ports
        assert reaches(several, one, DNS, 53, "UDP")

    def test_of_postgres_are_asked_by_their_operator_and_prometheus(self, several):
        pods = ends(several)
        found = {
            (other.name, name, port)
            for other in (OPERATOR, PROMETHEUS, GRAFANA, STRANGER, PUBLIC)
            for name in ("postgres", "redis-nodes", "redis-sentinel")
            for port in PORTS
            if reaches(several, other, pods[name], port)
        }

        assert found == {
            *(("operator", "postgres", port) for port in (5432, 8000)),
            ("prometheus", "postgres", 9187),
        }

    def test_of_postgres_alone_reach_the_api_and_the_bucket(self, several):
        found = {
            (name, other.name, port)
            for name in ("postgres", "redis-nodes", "redis-sentinel")
            for other in (API, PUBLIC, METADATA, OPERATOR)
            for port in (443, 6443, 5432)
            if reaches(several, ends(several)[name], other, port)
        }

        assert found == {
            *(("postgres", API.name, port) for port in (443, 6443)),
            ("postgres", PUBLIC.name, 443),
        }

    @pytest.mark.parametrize(
        "name", ["postgres-cluster", "redis-nodes", "redis-sentinel"]
    )
    def test_are_noticed_when_a_caller_is_missing(self, several, name):
        def forget(spec):
            callers = spec["ingress"][0]["from"][0]["podSelector"]["matchExpressions"]
            callers[0]["values"].remove("auth")

        assert matrix(changed(several, name, forget)) < matrix(several)

    @pytest.mark.parametrize(
        "name", ["postgres-cluster", "redis-nodes", "redis-sentinel"]
    )
    def test_are_noticed_when_they_are_open(self, several, name):
        spoiled = changed(several, name, allow_everybody)
        callee = ends(several)[name.removesuffix("-cluster")]
        port = {"postgres": 5432, "redis-nodes": 6379, "redis-sentinel": 26379}[
            callee.name
        ]

        assert reaches(spoiled, STRANGER, callee, port)


class TestMesh:
    """Who may call whom by their certificates."""

    MESH = ("data", "network-policies", "exporters", "redis-sentinel", "linkerd")

    def granted(self, manifests):
        pods = ends(manifests)
        return {
            (caller, callee, port)
            for caller in pods
            for callee in meshed(manifests)
            for port in PORTS
            if caller != callee
            and authorized(manifests, caller, "flagon", pods[callee], port)
        }

    @pytest.mark.parametrize(
        "components",
        [("data", "linkerd"), MESH, ("data", "cloudnative-pg", "linkerd")],
        ids="+".join,
    )
    def test_lets_through_what_the_architecture_has(self, components):
        manifests = combined(components)
        edges = {
            edge
            for edge in wanted(manifests)
            if edge[1] in meshed(manifests) and edge[2] != OPAQUE
        }

        assert self.granted(manifests) == edges
        assert len(edges) > 35

    def test_has_one_server_for_each_port_and_none_for_the_public_ones(self):
        manifests = combined(self.MESH)
        for one in manifests.of("Deployment", "StatefulSet"):
            end = ends(manifests)[one["metadata"]["name"]]
            ports = (port for each in containers(one) for port in each.get("ports", []))
            for port in ports:
                public = end.name == "gateway" and port["name"] in {"http", "https"}
                found = servers(manifests, end, port["containerPort"])
                assert len(found) == (0 if public else 1), (end.name, port)

    def test_lets_prometheus_and_nobody_else_of_its_namespace_in(self):
        manifests = combined(self.MESH)
        found = {
            (account, name, port)
            for account in ("prometheus-k8s", "grafana", "auth")
            for name, end in ends(manifests).items()
            for port in PORTS
            if authorized(manifests, account, "monitoring", end, port)
        }

        assert found == {
            *(("prometheus-k8s", *one) for one in EXPORTERS),
            *(
                ("prometheus-k8s", name, 8000)
                for name, end in ends(manifests).items()
                if end.labels["app.kubernetes.io/component"] in {"http", "process"}
            ),
        }

    @pytest.mark.parametrize("name", ["redis-nodes", "redis-sentinel"])
    def test_lets_several_of_a_kind_speak_to_each_other(self, name):
        manifests = combined(self.MESH)
        one, port = ends(manifests)[name], {"redis-nodes": 6379}.get(name, 26379)

        assert authorized(manifests, name, "flagon", one, port)
        assert reaches(manifests, one, one, OPAQUE)

    def test_is_asked_for_certificates_by_every_pod(self):
        manifests = combined(self.MESH)
        plane = End("identity", namespace="linkerd")

        for one in ends(manifests).values():
            for port in (8080, 8086, 8090):
                assert reaches(manifests, one, plane, port)
            assert not reaches(manifests, one, plane, 443)

    def test_leaves_postgres_to_its_operator(self):
        manifests = combined(("data", "cloudnative-pg", "linkerd"))
        cluster = manifests.find("Cluster", "postgres")["spec"]

        assert "postgres" not in meshed(manifests)
        assert cluster["inheritedMetadata"]["annotations"] == {
            "linkerd.io/inject": "disabled"
        }

    @pytest.mark.parametrize(
        ("kind", "name", "change"),
        [
            (
                "MeshTLSAuthentication",
                "callers-of-auth",
                lambda spec: spec["identityRefs"].pop(),
            ),
            (
                "MeshTLSAuthentication",
                "callers-of-redis-cache",
                lambda spec: spec["identityRefs"].append({"name": "worker-beat"}),
            ),
            (
                "AuthorizationPolicy",
                "callers-of-web",
                lambda spec: spec["targetRef"].update(name="catalog"),
            ),
            ("Server", "worker", lambda spec: spec.update(port=8001)),
        ],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    def test_that_is_wrong_is_noticed(self, kind, name, change):
        manifests = combined(self.MESH)

        spoiled = changed(manifests, name, change, kind)

        assert self.granted(spoiled) != self.granted(manifests)


def without(manifests, name):
    return Manifests(
        tuple(one for one in manifests.objects if one["metadata"]["name"] != name)
    )


def changed(manifests, name, change, kind="NetworkPolicy"):
    objects = deepcopy(manifests.objects)
    for one in objects:
        if (one["kind"], one["metadata"]["name"]) == (kind, name):
            change(one["spec"])
    return Manifests(objects)


def allow_everybody(spec):
    del spec["ingress"][0]["from"]


def forget_a_caller(spec):
    spec["podSelector"]["matchExpressions"][0]["values"].remove("web")


class TestBrokenPolicy:
    """The simulation notices what is too much and what is too little."""

    @pytest.mark.parametrize(
        ("name", "change"),
        [
            ("to-auth", allow_everybody),
            ("from-callers-of-catalog", forget_a_caller),
            ("from-callers-of-redis-store", forget_a_caller),
        ],
    )
    def test_is_noticed_one_way_or_the_other(self, local, name, change):
        spoiled = changed(local, name, change)

        # One end alone opens nothing: the other one still refuses.
        if change is allow_everybody:
            assert matrix(spoiled) == EDGES
            assert reaches(spoiled, STRANGER, ends(spoiled)["auth"], 8000)
        else:
            assert matrix(spoiled) != EDGES

    @pytest.mark.parametrize("name", ["to-redis-cache", "from-callers-of-postgres"])
    def test_that_is_missing_is_noticed(self, local, name):
        assert matrix(without(local, name)) < EDGES

    def test_without_the_default_everything_unnamed_is_open(self, local):
        spoiled = without(local, "default-deny")

        assert reaches(spoiled, ends(local)["worker-beat"], PUBLIC, 443) is False
        without_names = without(spoiled, "to-names")
        assert reaches(without_names, ends(local)["redis-store"], PUBLIC, 443)
