"""Objects that Kubernetes itself does not know: the fields that their documents name.

Only what is used here is listed, closed: a field with a typing mistake is refused.
"""

from jsonschema import Draft202012Validator


def _object(required, **properties):
    return {
        "type": "object",
        "required": required.split(),
        "additionalProperties": False,
        "properties": properties,
    }


def _list(item, **more):
    return {"type": "array", "items": item, "minItems": 1, **more}


_TEXT = {"type": "string", "minLength": 1}
_SECONDS = {"type": "integer", "minimum": 0}
_DURATION = {"type": "string", "pattern": r"^([0-9]+(h|m|s|ms))+$"}
_LABELS = {"type": "object", "additionalProperties": {"type": "string"}}
_ANALYSIS = _object(
    "templates",
    templates=_list(_object("templateName", templateName=_TEXT)),
    args=_list(
        {
            "oneOf": [
                _object("name value", name=_TEXT, value=_TEXT),
                _object(
                    "name valueFrom",
                    name=_TEXT,
                    valueFrom=_object(
                        "podTemplateHashValue",
                        podTemplateHashValue={"enum": ["Stable", "Latest"]},
                    ),
                ),
            ]
        }
    ),
)
_AMOUNTS = _object("memory", cpu=_TEXT, memory=_TEXT)
_RESOURCES = _object("requests limits", requests=_AMOUNTS, limits=_AMOUNTS)
_COMPRESSION = {"enum": ["bzip2", "gzip", "lz4", "snappy", "xz", "zstd"]}
_PORT = {"type": "integer", "minimum": 1, "maximum": 65535}

SPECS = {
    # https://cert-manager.io/docs/reference/api-docs/#cert-manager.io/v1.CertificateSpec
    ("cert-manager.io/v1", "Certificate"): _object(
        "secretName issuerRef dnsNames",
        secretName=_TEXT,
        dnsNames=_list(_TEXT),
        issuerRef=_object("name kind group", name=_TEXT, kind=_TEXT, group=_TEXT),
        privateKey=_object(
            "algorithm",
            algorithm={"enum": ["RSA", "ECDSA", "Ed25519"]},
            size={"type": "integer"},
            rotationPolicy={"enum": ["Never", "Always"]},
        ),
        renewBefore=_DURATION,
        usages=_list({"enum": ["digital signature", "server auth"]}),
    ),
    # https://external-secrets.io/latest/api/externalsecret/
    ("external-secrets.io/v1", "ExternalSecret"): _object(
        "secretStoreRef target dataFrom",
        refreshInterval=_DURATION,
        secretStoreRef=_object(
            "kind name", kind={"enum": ["ClusterSecretStore"]}, name=_TEXT
        ),
        target=_object("name", name=_TEXT),
        dataFrom=_list(_object("extract", extract=_object("key", key=_TEXT))),
    ),
    # https://keda.sh/docs/latest/reference/scaledobject-spec/ and /scalers/prometheus/
    ("keda.sh/v1alpha1", "ScaledObject"): _object(
        "scaleTargetRef triggers",
        scaleTargetRef=_object("name", name=_TEXT),
        minReplicaCount=_SECONDS,
        maxReplicaCount={"type": "integer", "minimum": 1},
        pollingInterval=_SECONDS,
        cooldownPeriod=_SECONDS,
        triggers=_list(
            _object(
                "type metadata",
                type={"enum": ["prometheus"]},
                metricType={"enum": ["AverageValue", "Value"]},
                # Values of triggers are strings, numbers too.
                metadata=_object(
                    "serverAddress query threshold",
                    serverAddress={"type": "string", "pattern": "^https?://"},
                    query=_TEXT,
                    threshold={"type": "string", "pattern": "^[0-9.]+$"},
                ),
            )
        ),
    ),
    # https://gateway-api.sigs.k8s.io/reference/spec/
    ("gateway.networking.k8s.io/v1", "Gateway"): _object(
        "gatewayClassName listeners",
        gatewayClassName=_TEXT,
        listeners=_list(
            _object(
                "name port protocol",
                name=_TEXT,
                port=_PORT,
                protocol={"enum": ["HTTPS"]},
                hostname=_TEXT,
                tls=_object(
                    "mode certificateRefs",
                    mode={"enum": ["Terminate"]},
                    certificateRefs=_list(_object("name", name=_TEXT)),
                ),
                allowedRoutes=_object(
                    "namespaces", namespaces=_object("from", **{"from": _TEXT})
                ),
            )
        ),
    ),
    ("gateway.networking.k8s.io/v1", "HTTPRoute"): _object(
        "parentRefs rules",
        parentRefs=_list(_object("name", name=_TEXT, sectionName=_TEXT)),
        hostnames=_list(_TEXT),
        rules=_list(
            _object(
                "backendRefs",
                backendRefs=_list(_object("name port", name=_TEXT, port=_PORT)),
            )
        ),
    ),
    ("gateway.networking.k8s.io/v1", "BackendTLSPolicy"): _object(
        "targetRefs validation",
        targetRefs=_list(
            _object(
                "group kind name",
                group={"const": ""},
                kind={"const": "Service"},
                name=_TEXT,
                sectionName=_TEXT,
            )
        ),
        validation=_object(
            "hostname wellKnownCACertificates",
            hostname=_TEXT,
            wellKnownCACertificates={"const": "System"},
        ),
    ),
    # https://prometheus-operator.dev/docs/api-reference/api/#monitoring.coreos.com/v1.PodMonitor
    ("monitoring.coreos.com/v1", "PodMonitor"): _object(
        "selector podMetricsEndpoints",
        selector={"type": "object"},
        podMetricsEndpoints=_list(
            _object(
                "port",
                port=_TEXT,
                path={"type": "string", "pattern": "^/"},
                params={"type": "object", "additionalProperties": _list(_TEXT)},
                interval=_DURATION,
                scrapeTimeout=_DURATION,
                honorLabels={"type": "boolean"},
                relabelings=_list(
                    {
                        "oneOf": [
                            _object(
                                "sourceLabels targetLabel",
                                sourceLabels=_list(_TEXT),
                                targetLabel=_TEXT,
                            ),
                            _object(
                                "targetLabel replacement",
                                targetLabel=_TEXT,
                                replacement=_TEXT,
                            ),
                        ]
                    }
                ),
            )
        ),
    ),
    # https://argo-rollouts.readthedocs.io/en/stable/features/specification/
    ("argoproj.io/v1alpha1", "Rollout"): _object(
        "selector workloadRef strategy",
        selector=_object("matchLabels", matchLabels=_LABELS),
        workloadRef=_object(
            "apiVersion kind name",
            apiVersion={"const": "apps/v1"},
            kind={"const": "Deployment"},
            name=_TEXT,
            scaleDown={"enum": ["never", "onsuccess", "progressively"]},
        ),
        strategy=_object(
            "canary",
            canary=_object(
                "steps",
                maxSurge=_SECONDS,
                maxUnavailable=_SECONDS,
                steps=_list(
                    {
                        "oneOf": [
                            _object(
                                "setWeight",
                                setWeight={
                                    "type": "integer",
                                    "minimum": 0,
                                    "maximum": 100,
                                },
                            ),
                            _object("analysis", analysis=_ANALYSIS),
                        ]
                    }
                ),
            ),
        ),
    ),
    # https://argo-rollouts.readthedocs.io/en/stable/features/analysis/
    ("argoproj.io/v1alpha1", "AnalysisTemplate"): _object(
        "metrics",
        args=_list(_object("name", name=_TEXT)),
        metrics=_list(
            _object(
                "name provider successCondition",
                name=_TEXT,
                initialDelay=_DURATION,
                interval=_DURATION,
                count={"type": "integer", "minimum": 1},
                failureLimit=_SECONDS,
                successCondition=_TEXT,
                provider=_object(
                    "prometheus",
                    prometheus=_object(
                        "address query",
                        address={"type": "string", "pattern": "^https?://"},
                        query=_TEXT,
                    ),
                ),
            )
        ),
    ),
    # https://cloudnative-pg.io/documentation/current/cloudnative-pg.v1/#clusterspec
    ("postgresql.cnpg.io/v1", "Cluster"): _object(
        "instances storage",
        instances={"type": "integer", "minimum": 1},
        imageName=_TEXT,
        enableSuperuserAccess={"type": "boolean"},
        enablePDB={"type": "boolean"},
        managed=_object(
            "services",
            services=_object(
                "disabledDefaultServices",
                disabledDefaultServices=_list({"enum": ["ro", "r"]}),
            ),
        ),
        bootstrap=_object(
            "initdb",
            initdb=_object(
                "database owner",
                database=_TEXT,
                owner=_TEXT,
                dataChecksums={"type": "boolean"},
                encoding=_TEXT,
                localeCollate=_TEXT,
                localeCType=_TEXT,
            ),
        ),
        postgresql=_object(
            "parameters",
            # Values are strings, numbers too.
            parameters=_LABELS,
            synchronous=_object(
                "method number",
                method={"enum": ["any", "first"]},
                number={"type": "integer", "minimum": 1},
                dataDurability={"enum": ["required", "preferred"]},
            ),
            pg_hba=_list(_TEXT),
        ),
        affinity=_object(
            "",
            enablePodAntiAffinity={"type": "boolean"},
            podAntiAffinityType={"enum": ["preferred", "required"]},
            topologyKey=_TEXT,
        ),
        topologySpreadConstraints=_list({"type": "object"}),
        seccompProfile=_object("type", type={"enum": ["RuntimeDefault"]}),
        resources=_RESOURCES,
        storage=_object("size", size=_TEXT),
        walStorage=_object("size", size=_TEXT),
        inheritedMetadata=_object("", annotations=_LABELS, labels=_LABELS),
        plugins=_list(
            _object(
                "name",
                name=_TEXT,
                isWALArchiver={"type": "boolean"},
                parameters=_LABELS,
            )
        ),
    ),
    ("postgresql.cnpg.io/v1", "ScheduledBackup"): _object(
        "schedule cluster",
        # Six fields: seconds come first.
        schedule={"type": "string", "pattern": r"^(\S+ ){5}\S+$"},
        immediate={"type": "boolean"},
        backupOwnerReference={"enum": ["none", "self", "cluster"]},
        cluster=_object("name", name=_TEXT),
        method={"enum": ["plugin", "volumeSnapshot", "barmanObjectStore"]},
        pluginConfiguration=_object("name", name=_TEXT),
    ),
    # https://cloudnative-pg.io/plugin-barman-cloud/docs/plugin-barman-cloud.v1/
    ("barmancloud.cnpg.io/v1", "ObjectStore"): _object(
        "configuration",
        retentionPolicy={"type": "string", "pattern": "^[1-9][0-9]*[dwm]$"},
        configuration=_object(
            "destinationPath",
            destinationPath={"type": "string", "pattern": "^s3://"},
            endpointURL=_TEXT,
            s3Credentials=_object(
                "accessKeyId secretAccessKey",
                accessKeyId=_object("name key", name=_TEXT, key=_TEXT),
                secretAccessKey=_object("name key", name=_TEXT, key=_TEXT),
            ),
            wal=_object("", compression=_COMPRESSION),
            data=_object("", compression=_COMPRESSION),
        ),
        instanceSidecarConfiguration=_object("", resources=_RESOURCES),
    ),
    # https://linkerd.io/2/reference/authorization-policy/
    ("policy.linkerd.io/v1beta3", "Server"): _object(
        "podSelector port",
        podSelector=_object("", matchLabels=_LABELS),
        port={"oneOf": [_PORT, _TEXT]},
        proxyProtocol={
            "enum": ["unknown", "HTTP/1", "HTTP/2", "gRPC", "opaque", "TLS"]
        },
        accessPolicy=_TEXT,
    ),
    ("policy.linkerd.io/v1alpha1", "AuthorizationPolicy"): _object(
        "targetRef requiredAuthenticationRefs",
        targetRef=_object(
            "group kind name",
            group={"const": "policy.linkerd.io"},
            kind={"enum": ["Server"]},
            name=_TEXT,
        ),
        requiredAuthenticationRefs=_list(
            _object(
                "group kind name",
                group={"const": "policy.linkerd.io"},
                kind={"enum": ["MeshTLSAuthentication"]},
                name=_TEXT,
            )
        ),
    ),
    ("policy.linkerd.io/v1alpha1", "MeshTLSAuthentication"): _object(
        "identityRefs",
        identityRefs=_list(
            _object(
                "kind name",
                kind={"const": "ServiceAccount"},
                name=_TEXT,
                namespace=_TEXT,
            )
        ),
    ),
    ("monitoring.coreos.com/v1", "PrometheusRule"): _object(
        "groups",
        groups=_list(
            _object(
                "name rules",
                name=_TEXT,
                interval=_DURATION,
                rules=_list(
                    {
                        "oneOf": [
                            _object(
                                "record expr", record=_TEXT, expr=_TEXT, labels=_LABELS
                            ),
                            _object(
                                "alert expr labels annotations",
                                **{"alert": _TEXT, "expr": _TEXT, "for": _DURATION},
                                labels=_LABELS,
                                annotations=_LABELS,
                            ),
                        ]
                    }
                ),
            )
        ),
    ),
}


def mistakes(one):
    """What is wrong with an object of another's kind; None: the kind is not known."""
    spec = SPECS.get((one["apiVersion"], one["kind"]))
    if spec is None:
        return None
    whole = _object(
        "apiVersion kind metadata spec",
        apiVersion=_TEXT,
        kind=_TEXT,
        metadata={"type": "object", "required": ["name", "namespace"]},
        spec=spec,
    )
    return [
        f"{error.json_path}: {error.message}"
        for error in Draft202012Validator(whole).iter_errors(one)
    ]
