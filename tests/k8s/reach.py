"""Who reaches whom, computed from NetworkPolicies as Kubernetes reads them.

https://kubernetes.io/docs/concepts/services-networking/network-policies/: a pod that no
policy selects for a direction may do everything in it; else what any of them allows. A
connection needs both ends to allow it. Addresses of pods are in no `ipBlock` of ours.
"""

from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network

from .manifests import WORKLOADS, annotations, labels

NAMESPACE = "flagon"


OPAQUE = 4143
"""Where a proxy of the mesh takes what is no HTTP; it knows itself to which port to go."""


@dataclass(frozen=True)
class End:
    """A pod, or an address outside the cluster (then `address` is set)."""

    name: str
    labels: dict = field(default_factory=dict)
    namespace: str = NAMESPACE
    address: str = ""


def ends(manifests):
    """Every workload as the pods that it starts, by name."""
    pods = {one["metadata"]["name"]: labels(one) for one in manifests.of(*WORKLOADS)}
    # The labels that CloudNativePG gives to the pods of a cluster.
    pods |= {
        one["metadata"]["name"]: {"cnpg.io/cluster": one["metadata"]["name"]}
        for one in manifests.of("Cluster")
    }
    return {name: End(name, found) for name, found in pods.items()}


def selects(selector, found):
    """Whether a label selector matches; an empty one matches everything."""
    for key, value in selector.get("matchLabels", {}).items():
        if found.get(key) != value:
            return False
    for each in selector.get("matchExpressions", []):
        has, values = found.get(each["key"]), each.get("values", [])
        if not {
            "In": has in values,
            "NotIn": has not in values,
            "Exists": has is not None,
            "DoesNotExist": has is None,
        }[each["operator"]]:
            return False
    return True


def matches(peer, end):
    """Whether one entry of `from` or `to` means this end."""
    if "ipBlock" in peer:
        block = peer["ipBlock"]
        return (
            bool(end.address)
            and ip_address(end.address) in ip_network(block["cidr"])
            and not any(
                ip_address(end.address) in ip_network(each)
                for each in block.get("except", [])
            )
        )
    if end.address:
        return False
    if "namespaceSelector" in peer:
        namespace = {"kubernetes.io/metadata.name": end.namespace}
        if not selects(peer["namespaceSelector"], namespace):
            return False
    elif end.namespace != NAMESPACE:
        return False
    return selects(peer.get("podSelector", {}), end.labels)


def allowed(policies, direction, here, there, port, protocol):
    """Whether the policies of one end allow a connection in one direction."""
    if here.address or here.namespace != NAMESPACE:
        return True
    key, peers = {"Egress": ("egress", "to"), "Ingress": ("ingress", "from")}[direction]
    mine = [
        one["spec"]
        for one in policies
        if direction in one["spec"]["policyTypes"]
        and selects(one["spec"]["podSelector"], here.labels)
    ]
    if not mine:
        return True
    return any(
        (peers not in rule or any(matches(peer, there) for peer in rule[peers]))
        and (
            "ports" not in rule
            or any(
                each.get("protocol", "TCP") == protocol
                and each["port"] <= port <= each.get("endPort", each["port"])
                for each in rule["ports"]
            )
        )
        for spec in mine
        for rule in spec.get(key, [])
    )


def reaches(manifests, caller, callee, port, protocol="TCP"):
    """Whether a connection from one end to another comes about."""
    policies = manifests.of("NetworkPolicy")
    return allowed(policies, "Egress", caller, callee, port, protocol) and allowed(
        policies, "Ingress", callee, caller, port, protocol
    )


def meshed(manifests):
    """Names of the workloads whose pods get a proxy of the mesh."""
    return {
        one["metadata"]["name"]
        for one in manifests.of(*WORKLOADS)
        if annotations(one).get("linkerd.io/inject") == "enabled"
    }


def servers(manifests, end, port):
    """The Servers that stand for a port of a pod; Linkerd takes no more than one."""
    return [
        one
        for one in manifests.of("Server")
        if one["spec"]["port"] == port
        and selects(one["spec"]["podSelector"], end.labels)
    ]


def authorized(manifests, account, namespace, end, port):
    """Whether the mesh lets an account through to a port.

    https://linkerd.io/2/reference/authorization-policy/: any policy of the Server is
    enough, and of that one every authentication; without a Server nobody is let in, as the
    pods are annotated.
    """
    known = {
        one["metadata"]["name"]: {
            (each["name"], each.get("namespace", NAMESPACE))
            for each in one["spec"]["identityRefs"]
        }
        for one in manifests.of("MeshTLSAuthentication")
    }
    targets = {one["metadata"]["name"] for one in servers(manifests, end, port)}
    return any(
        all(
            (account, namespace) in known[each["name"]]
            for each in one["spec"]["requiredAuthenticationRefs"]
        )
        for one in manifests.of("AuthorizationPolicy")
        if one["spec"]["targetRef"]["name"] in targets
    )
