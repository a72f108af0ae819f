"""Tests of the tests: for each rule, manifests that break it are caught by it."""

from copy import deepcopy

import pytest

from . import rules, schemas
from .manifests import COMPONENTS, Manifests, combined, containers, pod
from .test_builds import NEWEST, OLDEST, mistakes

EVERYTHING = tuple(COMPONENTS)
BROKEN = {}


def breaks(rule, kind, name):
    """Note a change of one object that `rule` must see."""

    def note(change):
        BROKEN[f"{rule}-{change.__name__}"] = (rule, kind, name, change)
        return change

    return note


def first(one):
    return containers(one)[-1]


@breaks("probes", "Deployment", "auth")
def no_startup_probe(one):
    del first(one)["startupProbe"]


@breaks("probes", "Deployment", "catalog")
def liveness_asks_the_database(one):
    first(one)["livenessProbe"]["httpGet"]["path"] = "/readyz"


@breaks("probes", "Deployment", "worker-beat")
def wrong_port(one):
    first(one)["readinessProbe"]["httpGet"]["port"] = 8001


@breaks("probes", "Deployment", "gateway")
def gateway_is_asked_at_the_public_port(one):
    first(one)["readinessProbe"]["httpGet"]["port"] = "http"


@breaks("probes", "Deployment", "realtime")
def impatient(one):
    first(one)["startupProbe"]["failureThreshold"] = 5


@breaks("resources", "Deployment", "web")
def no_limit_of_memory(one):
    del first(one)["resources"]["limits"]


@breaks("resources", "Job", "auth-migrate")
def nothing_asked_for(one):
    del first(one)["resources"]["requests"]["cpu"]


@breaks("resources", "Deployment", "worker")
def throttled(one):
    first(one)["resources"]["limits"]["cpu"] = "1"


@breaks("resources", "Deployment", "worker-bulk")
def asks_for_more_than_it_may(one):
    first(one)["resources"]["requests"]["memory"] = "2Gi"


@breaks("security", "Deployment", "auth")
def root(one):
    pod(one)["spec"]["securityContext"]["runAsNonRoot"] = False


@breaks("security", "Deployment", "gateway")
def writable_root_of_an_init_container(one):
    containers(one)[0]["securityContext"]["readOnlyRootFilesystem"] = False


@breaks("security", "StatefulSet", "redis-nodes")
def capabilities(one):
    first(one)["securityContext"]["capabilities"]["add"] = ["NET_RAW"]


@breaks("security", "Job", "auth-seed")
def escalation(one):
    del first(one)["securityContext"]["allowPrivilegeEscalation"]


@breaks("security", "Deployment", "worker-relay")
def no_seccomp(one):
    del pod(one)["spec"]["securityContext"]["seccompProfile"]


@breaks("security", "Deployment", "catalog")
def folder_of_the_node(one):
    pod(one)["spec"]["volumes"].append({"name": "x", "hostPath": {"path": "/"}})


@breaks("security", "Deployment", "web")
def network_of_the_node(one):
    pod(one)["spec"]["hostNetwork"] = True


@breaks("security", "Namespace", "flagon")
def lax_namespace(one):
    one["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] = "baseline"


@breaks("tokens", "Deployment", "auth")
def mounts_a_token(one):
    del pod(one)["spec"]["automountServiceAccountToken"]


@breaks("tokens", "ServiceAccount", "web")
def account_gives_its_token(one):
    one["automountServiceAccountToken"] = True


@breaks("tokens", "Deployment", "worker-bulk")
def account_of_another(one):
    pod(one)["spec"]["serviceAccountName"] = "worker"


@breaks("tokens", "Deployment", "realtime")
def variables_of_services(one):
    del pod(one)["spec"]["enableServiceLinks"]


@breaks("spread", "Deployment", "gateway")
def not_spread(one):
    del pod(one)["spec"]["topologySpreadConstraints"][0]


@breaks("spread", "Deployment", "auth")
def spread_with_others(one):
    del pod(one)["spec"]["topologySpreadConstraints"][1]["matchLabelKeys"]


@breaks("disruption", "PodDisruptionBudget", "catalog")
def budget_that_keeps_nodes_from_being_emptied(one):
    one["spec"] |= {"maxUnavailable": 0}


@breaks("disruption", "PodDisruptionBudget", "worker-interactive")
def budget_of_nobody(one):
    one["spec"]["selector"]["matchLabels"] = {"app.kubernetes.io/name": "nobody"}


@breaks("images", "Deployment", "web")
def latest(one):
    first(one)["image"] = "registry.example.com:5000/flagon/web:latest"


@breaks("images", "Deployment", "redis-cache")
def no_tag(one):
    first(one)["image"] = "registry.example.com:5000/redis"


@breaks("secrets", "Deployment", "auth")
def secret_as_a_variable(one):
    first(one)["env"] = [{"name": "AUTH_SECRET_KEY", "value": "k" * 32}]


@breaks("secrets", "Deployment", "catalog")
def password_in_a_url(one):
    first(one)["env"].append({"name": "X", "value": "redis://catalog:geheim@r:6379/0"})


@breaks("secrets", "Deployment", "worker")
def unknown_secret(one):
    first(one)["envFrom"].append({"secretRef": {"name": "everything"}})


@breaks("secrets", "ConfigMap", "web")
def secret_in_a_config_map(one):
    one["data"]["WEB_CLIENT_SECRET"] = "geheim"


@breaks("owners", "Deployment", "catalog")
def service_with_the_owners_password(one):
    for volume in pod(one)["spec"]["volumes"]:
        if volume["name"] == "secrets":
            volume["secret"]["secretName"] = "catalog-owner"


@breaks("migrations", "Deployment", "auth")
def migrates_at_start(one):
    pod(one)["spec"]["initContainers"] = [deepcopy(first(one)) | {"args": ["migrate"]}]


@breaks("migrations", "Job", "worker-migrate")
def job_for_ever(one):
    pod(one)["spec"]["restartPolicy"] = "OnFailure"


@breaks("drain", "Deployment", "auth")
def killed_too_soon(one):
    pod(one)["spec"]["terminationGracePeriodSeconds"] = 12


@breaks("drain", "Deployment", "web")
def stops_at_once(one):
    del first(one)["lifecycle"]


@breaks("drain", "Deployment", "gateway")
def gateway_cuts_streams_off(one):
    pod(one)["spec"]["terminationGracePeriodSeconds"] = 30


@breaks("drain", "ConfigMap", "worker")
def more_grace_than_time(one):
    one["data"]["WORKER_GRACE_SECONDS"] = "60"


@breaks("writable", "Deployment", "worker-bulk")
def nowhere_to_put_files(one):
    first(one)["volumeMounts"] = first(one)["volumeMounts"][:2]


@breaks("writable", "ConfigMap", "auth")
def metrics_in_the_root(one):
    one["data"]["AUTH_METRICS_DIR"] = "/var/metrics"


@breaks("references", "Service", "catalog")
def service_of_nobody(one):
    one["spec"]["selector"] = {"app.kubernetes.io/name": "catalogue"}


@breaks("references", "Service", "web")
def service_at_a_port_of_nobody(one):
    one["spec"]["ports"][0]["targetPort"] = "https"


@breaks("references", "Deployment", "worker")
def settings_that_do_not_exist(one):
    first(one)["envFrom"] = [{"configMapRef": {"name": "worker"}}]


@breaks("references", "Deployment", "web")
def volume_that_does_not_exist(one):
    for volume in pod(one)["spec"]["volumes"]:
        if "persistentVolumeClaim" in volume:
            volume["persistentVolumeClaim"]["claimName"] = "spools"


@breaks("scaling", "Deployment", "worker-interactive")
def scaled_and_set_back(one):
    one["spec"]["replicas"] = 2


@breaks("scaling", "Deployment", "worker-beat")
def two_clocks(one):
    one["spec"]["replicas"] = 2


@breaks("scaling", "Deployment", "worker-beat")
def two_clocks_during_a_rollout(one):
    one["spec"]["strategy"] = {"type": "RollingUpdate"}


@breaks("scaling", "HorizontalPodAutoscaler", "web")
def scaled_relay(one):
    one["spec"]["scaleTargetRef"]["name"] = "catalog-relay"


@breaks("scaling", "Deployment", "catalog")
def comes_back_beside_its_rollout(one):
    one["spec"]["replicas"] = 2


@breaks("scaling", "HorizontalPodAutoscaler", "auth")
def scales_what_has_no_pods(one):
    one["spec"]["scaleTargetRef"] |= {"kind": "Deployment"}


@breaks("scaling", "Rollout", "web")
def rollout_of_nobody(one):
    one["spec"]["workloadRef"]["name"] = "shop"


@breaks("scaling", "Rollout", "web")
def rollout_of_others_pods(one):
    one["spec"]["selector"]["matchLabels"] = {"app.kubernetes.io/name": "auth"}


@breaks("scaling", "Rollout", "worker")
def released_unjudged(one):
    canary = one["spec"]["strategy"]["canary"]
    canary["steps"] = [step for step in canary["steps"] if "analysis" not in step]


@breaks("scaling", "AnalysisTemplate", "objectives")
def judge_that_does_not_exist(one):
    one["metadata"]["name"] = "others"


@breaks("scaling", "Rollout", "catalog")
def judged_by_others_requests(one):
    for step in one["spec"]["strategy"]["canary"]["steps"]:
        if "analysis" in step:
            step["analysis"]["args"] = [{"name": "service", "value": "web"}]


@breaks("settings", "ConfigMap", "catalog")
def unknown_setting(one):
    one["data"]["CATALOG_WORKER"] = "2"


@breaks("settings", "ConfigMap", "worker")
def missing_setting(one):
    del one["data"]["WORKER_FILES_DIR"]


@breaks("addresses", "ConfigMap", "web")
def wrong_address(one):
    one["data"]["WEB_CATALOG_URL"] = "http://catalog:80"


@breaks("addresses", "ConfigMap", "gateway")
def gateway_with_a_wrong_address(one):
    one["data"]["GATEWAY_WEB"] = "webb:8000"


@breaks("agreement", "ConfigMap", "realtime")
def two_issuers(one):
    one["data"]["REALTIME_PUBLIC_URL"] = "https://other.example.com"


@breaks("agreement", "ConfigMap", "gateway")
def host_that_is_not_served(one):
    one["data"]["GATEWAY_SERVER_NAMES"] = "other.example.com"


@breaks("agreement", "Ingress", "gateway")
def another_name_without_a_certificate(one):
    one["spec"]["rules"][0]["host"] = "other.example.com"


@breaks("agreement", "HTTPRoute", "public")
def another_name_that_is_let_in(one):
    one["spec"]["hostnames"].append("other.example.com")


@breaks("agreement", "ConfigMap", "web")
def two_cookies(one):
    one["data"]["WEB_SESSION_COOKIE"] = "session"


@breaks("replicated", "Cluster", "postgres")
def two_copies(one):
    one["spec"]["instances"] = 2


@breaks("replicated", "Cluster", "postgres")
def acknowledged_by_one(one):
    one["spec"]["postgresql"]["synchronous"]["dataDurability"] = "preferred"


@breaks("replicated", "Cluster", "postgres")
def no_budget_of_the_operator(one):
    one["spec"]["enablePDB"] = False


@breaks("replicated", "Cluster", "postgres")
def copies_on_one_node(one):
    one["spec"]["affinity"]["podAntiAffinityType"] = "preferred"


@breaks("replicated", "Cluster", "postgres")
def passwords_in_the_clear(one):
    del one["spec"]["postgresql"]["pg_hba"]


@breaks("replicated", "Cluster", "postgres")
def any_postgres(one):
    one["spec"]["imageName"] = "ghcr.io/cloudnative-pg/postgresql:17"


@breaks("replicated", "Cluster", "postgres")
def log_goes_nowhere(one):
    one["spec"]["plugins"][0]["isWALArchiver"] = False


@breaks("replicated", "ObjectStore", "postgres")
def log_goes_to_nobody(one):
    one["metadata"]["name"] = "other"


@breaks("replicated", "ScheduledBackup", "postgres")
def copies_of_another(one):
    one["spec"]["cluster"]["name"] = "other"


@breaks("replicated", "Deployment", "catalog-relay")
def believes_any_database(one):
    for variable in first(one)["env"]:
        if variable["name"] == "PGSSLMODE":
            variable["value"] = "require"


@breaks("replicated", "Job", "worker-migrate")
def has_no_authority(one):
    mounts = first(one)["volumeMounts"]
    first(one)["volumeMounts"] = [
        each for each in mounts if each["name"] != "postgres-ca"
    ]


@breaks("replicated", "StatefulSet", "redis-nodes")
def one_replica(one):
    one["spec"]["replicas"] = 2


@breaks("replicated", "StatefulSet", "redis-sentinel")
def sentinels_on_one_node(one):
    del pod(one)["spec"]["affinity"]


@breaks("replicated", "StatefulSet", "redis-sentinel")
def one_after_the_other(one):
    one["spec"]["podManagementPolicy"] = "OrderedReady"


@breaks("replicated", "StatefulSet", "redis-sentinel")
def forgetful_sentinels(one):
    del one["spec"]["volumeClaimTemplates"]


@breaks("replicated", "StatefulSet", "redis-nodes")
def asks_nobody(one):
    for variable in first(one)["env"]:
        if variable["name"] == "SENTINELS":
            variable["value"] = "redis-sentinel-3.redis-sentinel:26379"


@breaks("replicated", "Service", "redis-nodes")
def names_too_late(one):
    one["spec"]["publishNotReadyAddresses"] = False


def annotated(one):
    return pod(one)["metadata"]["annotations"]


@breaks("mesh", "Deployment", "catalog")
def outside_the_mesh(one):
    annotated(one)["linkerd.io/inject"] = "disabled"


@breaks("mesh", "Job", "auth-migrate")
def job_that_does_not_end(one):
    del annotated(one)["config.beta.linkerd.io/proxy-enable-native-sidecar"]


@breaks("mesh", "StatefulSet", "redis-nodes")
def lets_everybody_in(one):
    annotated(one)["config.linkerd.io/default-inbound-policy"] = "all-unauthenticated"


@breaks("mesh", "Deployment", "worker-beat")
def proxy_without_a_limit(one):
    del annotated(one)["config.linkerd.io/proxy-memory-limit"]


@breaks("mesh", "Deployment", "gateway")
def addresses_that_nobody_sees(one):
    del annotated(one)["config.linkerd.io/skip-inbound-ports"]


@breaks("mesh", "Deployment", "auth")
def way_past_the_mesh(one):
    annotated(one)["config.linkerd.io/skip-inbound-ports"] = "8000"


@breaks("mesh", "Deployment", "realtime")
def guesses_at_databases(one):
    annotated(one)["config.linkerd.io/opaque-ports"] = "5432"


@breaks("mesh", "Cluster", "postgres")
def operator_in_the_mesh(one):
    del one["spec"]["inheritedMetadata"]


@breaks("mesh", "AuthorizationPolicy", "callers-of-catalog")
def policy_for_nobody(one):
    one["spec"]["targetRef"]["name"] = "catalogue"


@breaks("mesh", "MeshTLSAuthentication", "callers-of-catalog")
def caller_that_does_not_exist(one):
    one["spec"]["identityRefs"][0]["name"] = "gatewy"


@breaks("probes", "Deployment", "redis-exporter")
def exporter_that_asks_a_data_store(one):
    first(one)["livenessProbe"]["httpGet"]["path"] = "/scrape"


@breaks("probes", "Deployment", "gateway")
def people_wait_for_an_exporter(one):
    exporter = containers(one)[-2]
    exporter["readinessProbe"] = exporter["livenessProbe"]


@breaks("probes", "Deployment", "gateway")
def exporter_that_must_end(one):
    del containers(one)[-2]["restartPolicy"]


@breaks("probes", "Deployment", "gateway")
def exporter_that_hangs(one):
    del containers(one)[-2]["livenessProbe"]


@breaks("security", "Deployment", "postgres-exporter")
def exporter_with_privileges(one):
    first(one)["securityContext"]["privileged"] = True


@breaks("replicated", "Deployment", "postgres-exporter")
def exporter_that_believes_any_database(one):
    env = first(one)["env"]
    env.remove({"name": "PGSSLMODE", "value": "verify-full"})


@breaks("monitors", "Deployment", "postgres-exporter")
def exporter_that_nobody_finds(one):
    first(one)["ports"][0]["name"] = "http"


@breaks("monitors", "Deployment", "gateway")
def sidecar_that_nobody_finds(one):
    del containers(one)[-2]["ports"]


@breaks("monitors", "Deployment", "redis-exporter")
def two_exporters(one):
    one["spec"]["replicas"] = 2


@breaks("monitors", "Deployment", "postgres-exporter")
def two_exporters_during_a_rollout(one):
    del one["spec"]["strategy"]


@breaks("monitors", "PodMonitor", "postgres-exporter")
def monitor_of_nobody(one):
    one["spec"]["selector"]["matchLabels"] = {"app.kubernetes.io/name": "postgres"}


@breaks("monitors", "PodMonitor", "gateway-exporter")
def job_of_the_operator(one):
    del one["spec"]["podMetricsEndpoints"][0]["relabelings"][0]


@breaks("monitors", "PodMonitor", "redis-exporter")
def exporter_that_is_asked_for_nobody(one):
    del one["spec"]["podMetricsEndpoints"][0]["params"]


@breaks("monitors", "PodMonitor", "redis-exporter")
def node_that_nobody_looks_at(one):
    one["spec"]["podMetricsEndpoints"].pop()


@breaks("monitors", "PodMonitor", "redis-exporter")
def store_that_is_gone(one):
    endpoint = one["spec"]["podMetricsEndpoints"][1]
    endpoint["params"]["target"] = ["redis://redis-store:6379"]


def spoil(kind, name, change):
    """All components with one object changed."""
    objects = list(combined(EVERYTHING).objects)
    for number, one in enumerate(objects):
        found = one["metadata"]["name"]
        if kind == "ConfigMap":
            found = found.rpartition("-")[0]
        if (one["kind"], found) == (kind, name):
            objects[number] = deepcopy(one)
            change(objects[number])
            return Manifests(tuple(objects))
    raise AssertionError(f"no {kind} {name}")


class TestBroken:
    @pytest.mark.parametrize("case", BROKEN)
    def test_manifest_is_caught_by_its_rule(self, case):
        rule, kind, name, change = BROKEN[case]

        assert list(rules.RULES[rule](combined(EVERYTHING))) == []
        assert list(rules.RULES[rule](spoil(kind, name, change))) != []

    def test_manifest_is_there_for_every_rule(self):
        assert {rule for rule, *_rest in BROKEN.values()} == set(rules.RULES)

    def test_secret_object_is_caught(self):
        secret = {"kind": "Secret", "metadata": {"name": "auth"}, "data": {"a": "Yg=="}}
        objects = (*combined(EVERYTHING).objects, secret)

        assert list(rules.secrets(Manifests(objects))) != []

    @pytest.mark.parametrize("version", [OLDEST, NEWEST])
    def test_field_of_kubernetes_is_caught(self, version):
        def mistype(one):
            pod(one)["spec"]["terminationGracePeriod"] = 30

        assert list(mistakes(spoil("Deployment", "auth", mistype), version)) != []

    @pytest.mark.parametrize(
        ("kind", "name", "path", "value"),
        [
            ("ScaledObject", "worker-bulk", ("maxReplicas",), 3),
            ("ScaledObject", "worker-bulk", ("triggers", 0, "metadata", "query"), ""),
            ("ScaledObject", "worker-bulk", ("triggers", 0, "threshold"), "1"),
            ("Certificate", "gateway", ("issuerRef", "nam"), "x"),
            ("ExternalSecret", "auth", ("target", "name"), None),
            ("HTTPRoute", "public", ("rules", 0, "backendRefs", 0, "port"), "https"),
            ("Gateway", "public", ("listeners", 0, "protocol"), "http"),
            ("BackendTLSPolicy", "gateway", ("validation", "hostname"), 1),
            ("PodMonitor", "flagon", ("podMetricsEndpoints", 0, "path"), "metrics"),
            ("PodMonitor", "redis-exporter", ("podMetricsEndpoints", 0, "params"), ""),
            ("Rollout", "web", ("workloadRef", "scaleDown"), "at once"),
            ("Rollout", "web", ("strategy", "canary", "steps", 0, "weight"), 10),
            ("AnalysisTemplate", "objectives", ("metrics", 0, "interval"), "1 minute"),
            ("Cluster", "postgres", ("instance",), 3),
            ("Server", "auth", ("proxyProtocol",), "HTTP"),
            ("AuthorizationPolicy", "callers-of-auth", ("targetRef", "kind"), "Srv"),
            ("MeshTLSAuthentication", "prometheus", ("identities",), "*"),
            ("Cluster", "postgres", ("postgresql", "parameters", "jit"), False),
            ("ObjectStore", "postgres", ("configuration", "wal", "compression"), "zip"),
            ("ScheduledBackup", "postgres", ("schedule",), "0 2 * * *"),
            ("PrometheusRule", "flagon-red", ("groups", 0, "rules", 0, "alert"), "x"),
        ],
    )
    def test_field_of_others_is_caught(self, kind, name, path, value):
        def mistype(one):
            place = one["spec"]
            for key in path[:-1]:
                place = place[key]
            place[path[-1]] = value

        assert list(mistakes(spoil(kind, name, mistype), NEWEST)) != []

    def test_object_that_nobody_knows_is_caught(self):
        def mistype(one):
            one["apiVersion"] = "keda.sh/v1"

        spoiled = spoil("ScaledObject", "worker-bulk", mistype)
        assert any("nobody knows" in one for one in mistakes(spoiled, NEWEST))

    def test_every_schema_is_used(self):
        used = {
            (one["apiVersion"], one["kind"]) for one in combined(EVERYTHING).objects
        }

        assert set(schemas.SPECS) <= used
