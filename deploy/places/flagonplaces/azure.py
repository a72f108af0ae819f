"""Azure: Container Apps with secrets of a Key Vault and files over NFS, as two ARM templates.

`platform.json` has what lasts and the jobs, `apps.json` what is rolled out after them.
"""

import json

from .platform import PORT, Object, Part, behind, moved

_VERSION = "2026-07-01"
_READS_SECRETS = "4633458b-17de-408a-b874-0445c86b69e6"
_PULLS_IMAGES = "7f951dda-4ed3-4680-a7ca-43fe172d538d"
REQUEST_SECONDS = 240
"""After which the ingress ends every request, streams too."""


def files(found: tuple[Part, ...]) -> dict[str, str]:
    """Return both templates."""
    placed = [_placed(one) for one in found]
    jobs = [one for one in placed if one.kind == "job"]
    lasting = [one for one in placed if one.kind != "job"]
    return {
        "azure/platform.json": _text(_platform(jobs, placed)),
        "azure/apps.json": _text(_apps(lasting)),
    }


def _placed(part: Part) -> Part:
    more: dict[str, str] = {}
    if part.kind == "gateway":
        more = behind("0.0.0.0/0")
    elif part.service == "realtime":
        # Streams are ended in time by the one who knows how: clients resume.
        more = {"ROTATE_SECONDS": str(REQUEST_SECONDS - 40)}
    # TCP, not HTTP: names and ports stay as they are, and so does the name that people typed.
    return moved(
        part,
        lambda name: f"http://{name}:{PORT}",
        lambda name: f"{name}:{PORT}",
        **more,
    )


def _text(template: Object) -> str:
    return json.dumps(template, indent=2) + "\n"


def _template(parameters: Object, resources: list[Object]) -> Object:
    return {
        "$schema": "https://schema.management.azure.com/schemas/2019-04-01/"
        "deploymentTemplate.json#",
        "contentVersion": "1.0.0.0",
        "metadata": {"description": "Made by `make places`."},
        "parameters": {
            "location": {
                "type": "string",
                "defaultValue": "[resourceGroup().location]",
            },
            "hostName": {"type": "string"},
            "vault": {"type": "string"},
            "registry": {"type": "string"},
            "bucketHost": {"type": "string"},
            "bucketName": {"type": "string"},
            **parameters,
        },
        "resources": resources,
    }


def _image(part: Part) -> str:
    return f"{part.service or 'gateway'}Image"


def _images(parts: list[Part]) -> Object:
    """Return parameters for images: ARM knows no patterns, rollout.sh checks digests."""
    return {name: {"type": "string"} for name in sorted({_image(one) for one in parts})}


def _account(part: Part) -> str:
    return "flagon-" + (part.name if part.kind == "job" else part.service or part.name)


def _resource(kind: str, name: str, version: str, **more: object) -> Object:
    return {"type": kind, "apiVersion": version, "name": name} | more


def _id(kind: str, name: str) -> str:
    return f"resourceId('{kind}', '{name}')"


_IDENTITY = "Microsoft.ManagedIdentity/userAssignedIdentities"
_ENVIRONMENT = "Microsoft.App/managedEnvironments"


def _hidden(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")


def _readers(parts: list[Part]) -> list[tuple[str, str]]:
    """Return pairs of an account and a secret that it reads."""
    return sorted(
        {
            (_account(one), _hidden(name))
            for one in parts
            for name in (*one.secrets, *one.files)
        }
    )


def _grant(account: str, scope: str, role: str, *names: str) -> Object:
    words = "', '".join((account, role, *names))
    return _resource(
        "Microsoft.Authorization/roleAssignments",
        f"[guid(resourceGroup().id, '{words}')]",
        "2022-04-01",
        scope=f"[{scope}]",
        dependsOn=[f"[{_id(_IDENTITY, account)}]"],
        properties={
            "roleDefinitionId": "[subscriptionResourceId("
            f"'Microsoft.Authorization/roleDefinitions', '{role}')]",
            "principalId": f"[reference({_id(_IDENTITY, account)}, '2023-01-31')"
            ".principalId]",
            "principalType": "ServicePrincipal",
        },
    )


def _platform(jobs: list[Part], parts: list[Part]) -> Object:
    accounts = sorted({_account(one) for one in parts})
    registry = (
        "resourceId('Microsoft.ContainerRegistry/registries', parameters('registry'))"
    )
    resources = [
        _resource(_IDENTITY, name, "2023-01-31", location="[parameters('location')]")
        for name in accounts
    ]
    resources += [_grant(name, registry, _PULLS_IMAGES) for name in accounts]
    for account, secret in _readers(parts):
        scope = (
            "resourceId('Microsoft.KeyVault/vaults/secrets', parameters('vault'), "
            f"'{secret}')"
        )
        resources.append(_grant(account, scope, _READS_SECRETS, secret))
    resources.append(
        _resource(
            _ENVIRONMENT,
            "flagon",
            _VERSION,
            location="[parameters('location')]",
            properties={
                "vnetConfiguration": {
                    "infrastructureSubnetId": "[parameters('subnetId')]",
                    "internal": False,
                },
                "zoneRedundant": True,
                "workloadProfiles": [
                    {"name": "Consumption", "workloadProfileType": "Consumption"}
                ],
                "appLogsConfiguration": {"destination": "azure-monitor"},
            },
        )
    )
    for name in sorted({name for one in parts for name in one.folders}):
        resources.append(
            _resource(
                f"{_ENVIRONMENT}/storages",
                f"flagon/{name}",
                _VERSION,
                dependsOn=[f"[{_id(_ENVIRONMENT, 'flagon')}]"],
                properties={
                    "nfsAzureFile": {
                        "server": "[parameters('filesServer')]",
                        "shareName": f"[concat(parameters('filesShare'), '/{name}')]",
                        "accessMode": "ReadWrite",
                    }
                },
            )
        )
    resources += [_job(one) for one in jobs]
    parameters: Object = {
        name: {"type": "string"} for name in ("subnetId", "filesServer", "filesShare")
    }
    return _template(parameters | _images(jobs), resources)


def _apps(lasting: list[Part]) -> Object:
    parameters: Object = {"certificateId": {"type": "string"}}
    return _template(parameters | _images(lasting), [_app(one) for one in lasting])


def _common(part: Part, kind: str, properties: Object, depends: list[str]) -> Object:
    account = _id(_IDENTITY, _account(part))
    found = _resource(kind, part.name, _VERSION, location="[parameters('location')]")
    if depends:
        found["dependsOn"] = depends
    return found | {
        "identity": {
            "type": "UserAssigned",
            "userAssignedIdentities": {f"[{account}]": {}},
        },
        "properties": {
            "environmentId": f"[{_id(_ENVIRONMENT, 'flagon')}]",
            "workloadProfileName": "Consumption",
            **properties,
        },
    }


def _configuration(part: Part) -> Object:
    account = f"[{_id(_IDENTITY, _account(part))}]"
    return {
        "secrets": [
            {
                "name": _hidden(name),
                "keyVaultUrl": "[concat('https://', parameters('vault'), "
                f"environment().suffixes.keyvaultDns, '/secrets/{_hidden(name)}')]",
                "identity": account,
            }
            for name in (*part.secrets, *part.files)
        ],
        "registries": [
            {
                "server": "[concat(parameters('registry'), '.azurecr.io')]",
                "identity": account,
            }
        ],
        # The identity is for the platform that starts it, not for its own code.
        "identitySettings": [{"identity": account, "lifecycle": "None"}],
    }


def _value(text: str) -> str:
    if "shop.example.com" not in text:
        return text
    before, _, after = text.partition("shop.example.com")
    return f"[concat('{before}', parameters('hostName'), '{after}')]"


def _container(part: Part) -> Object:
    values = {key: _value(text) for key, text in part.settings.items()}
    if part.service == "catalog":
        values["CATALOG_IMAGES_URL"] = (
            "[concat('https://', parameters('bucketHost'), '/', "
            "parameters('bucketName'))]"
        )
    if part.kind == "gateway":
        values["GATEWAY_BUCKET"] = "[concat(parameters('bucketHost'), ':443')]"
    if part.files:
        values["AUTH_CLIENTS_FILE"] = "/run/flagon/auth_clients.json"
    # Cores and memory are sold in pairs: half a gibibyte with a quarter of a core.
    pairs = -(-part.memory // 512)
    found: Object = {
        "name": part.name,
        "image": f"[parameters('{_image(part)}')]",
        "resources": {"cpu": pairs * 0.25, "memory": f"{pairs * 0.5:g}Gi"},
        "env": [{"name": key, "value": value} for key, value in sorted(values.items())]
        + [{"name": name, "secretRef": _hidden(name)} for name in part.secrets],
    }
    found |= part.start
    mounts = [
        {"volumeName": name, "mountPath": path} for name, path in part.folders.items()
    ] + [{"volumeName": "clients", "mountPath": "/run/flagon"} for _ in part.files]
    if mounts:
        found["volumeMounts"] = mounts
    return found


def _volumes(part: Part) -> list[Object]:
    found: list[Object] = [
        {"name": name, "storageType": "NfsAzureFile", "storageName": name}
        for name in part.folders
    ]
    for name in part.files:
        item = {"secretRef": _hidden(name), "path": name}
        found.append({"name": "clients", "storageType": "Secret", "secrets": [item]})
    return found


def _probes(part: Part) -> list[Object]:
    gateway = part.kind == "gateway"

    def probe(kind: str, path: str, **more: int) -> Object:
        get = {"path": path, "port": 8081 if gateway else PORT, "scheme": "HTTP"}
        return {"type": kind, "httpGet": get, "timeoutSeconds": 5} | more

    return [
        probe("Startup", part.alive, periodSeconds=2, failureThreshold=30),
        probe("Liveness", part.alive, periodSeconds=10, failureThreshold=3),
        probe("Readiness", part.health, periodSeconds=10, failureThreshold=3),
    ]


def _ingress(part: Part) -> Object:
    if part.kind == "gateway":
        return {
            "external": True,
            "transport": "http",
            "targetPort": 8080,
            "allowInsecure": False,
            "customDomains": [
                {
                    "name": "[parameters('hostName')]",
                    "bindingType": "SniEnabled",
                    "certificateId": "[parameters('certificateId')]",
                }
            ],
            # For the status page, from inside.
            "additionalPortMappings": [
                {"external": False, "targetPort": 8081, "exposedPort": 8081}
            ],
        }
    return {
        "external": False,
        "transport": "tcp",
        "targetPort": PORT,
        "exposedPort": PORT,
    }


def _app(part: Part) -> Object:
    configuration: Object = {"activeRevisionsMode": "Single"} | _configuration(part)
    if part.kind in {"gateway", "http"}:
        configuration["ingress"] = _ingress(part)
    copies = 1 if part.single else part.copies
    template: Object = {
        "containers": [_container(part) | {"probes": _probes(part)}],
        "terminationGracePeriodSeconds": part.grace,
        # Never none: streams, relays and queues wait for nobody.
        "scale": {
            "minReplicas": copies,
            "maxReplicas": copies if part.kind == "process" else 2 * copies,
        },
    }
    if volumes := _volumes(part):
        template["volumes"] = volumes
    return _common(
        part,
        "Microsoft.App/containerApps",
        {"configuration": configuration, "template": template},
        [],
    )


def _job(part: Part) -> Object:
    configuration: Object = {
        "triggerType": "Manual",
        "manualTriggerConfig": {"parallelism": 1, "replicaCompletionCount": 1},
        "replicaTimeout": 1800,
        "replicaRetryLimit": 3,
    } | _configuration(part)
    template: Object = {"containers": [_container(part)]}
    if volumes := _volumes(part):
        template["volumes"] = volumes
    needs = [f"[{_id(_ENVIRONMENT, 'flagon')}]"]
    # It can read nothing before it may.
    needs += [f"[{_id(_IDENTITY, _account(part))}]"]
    return _common(
        part,
        "Microsoft.App/jobs",
        {"configuration": configuration, "template": template},
        needs,
    )
