"""AWS: ECS on Fargate with RDS, ElastiCache and EFS, as two CloudFormation templates.

`platform.yaml` has what lasts and the jobs, `services.yaml` what is rolled out after them.
"""

from collections.abc import Iterable

from flagonctl.vault import MAILS

from .platform import (
    PORT,
    ROOT,
    SERVICES,
    STREAM_SECONDS,
    Object,
    Part,
    behind,
    moved,
    yaml_text,
)

NETWORK = "10.20.0.0/16"
DOMAIN = "flagon.internal"
_ENGINE = "17"
_VERSION = "17.10"
_OWNED = ("auth", "catalog", "worker")
# Secrets come as variables alone: the file is made of one, and the process takes its place.
_WITH_A_FILE = (
    "import os, sys; from pathlib import Path; os.umask(0o077); "
    "Path('/tmp/clients.json').write_text(os.environ.pop('AUTH_CLIENTS')); "
    "os.environ['AUTH_CLIENTS_FILE'] = '/tmp/clients.json'; "
    "os.execvp(sys.argv[1], sys.argv[1:])"
)


def files(found: tuple[Part, ...]) -> dict[str, str]:
    """Return both templates."""
    placed = [_placed(one) for one in found]
    jobs = [one for one in placed if one.kind == "job"]
    lasting = [one for one in placed if one.kind != "job"]
    return {
        "aws/platform.yaml": yaml_text(_platform(jobs, lasting)),
        "aws/services.yaml": yaml_text(_services(lasting)),
    }


def _placed(part: Part) -> Part:
    more: dict[str, str] = {}
    if part.kind == "gateway":
        more = behind(NETWORK)
    elif part.service == "web":
        more = {"GATEWAY_URL": f"http://gateway.{DOMAIN}:8081"}
    return moved(
        part,
        lambda name: f"http://{name}.{DOMAIN}:{PORT}",
        lambda name: f"{name}.{DOMAIN}:{PORT}",
        **more,
    )


# -- Words of CloudFormation --------------------------------------------------------------


def _ref(name: str) -> Object:
    return {"Ref": name}


def _get(name: str, attribute: str = "Arn") -> Object:
    return {"Fn::GetAtt": [name, attribute]}


def _sub(text: str) -> Object:
    return {"Fn::Sub": text}


def _import(name: str) -> Object:
    return {"Fn::ImportValue": {"Fn::Sub": f"${{Platform}}-{name}"}}


def _title(name: str) -> str:
    return "".join(word.capitalize() for word in name.replace(".", "-").split("-"))


def _resource(kind: str, properties: Object, **more: object) -> Object:
    return {"Type": f"AWS::{kind}", **more, "Properties": properties}


def _template(
    text: str, parameters: Object, resources: Object, outputs: Object
) -> Object:
    return {
        "AWSTemplateFormatVersion": "2010-09-09",
        "Description": text,
        "Parameters": parameters,
        "Resources": resources,
        "Outputs": outputs,
    }


def _image_parameters(parts: Iterable[Part]) -> Object:
    return {
        _image(name): {
            "Type": "String",
            "Description": f"The image {name}, by its digest",
            "AllowedPattern": ".+@sha256:[0-9a-f]{64}",
        }
        for name in sorted({one.image for one in parts})
    }


def _image(name: str) -> str:
    return f"{_title(name.removeprefix('flagon-'))}Image"


_HOST = {
    "HostName": {
        "Type": "String",
        "Description": "The name that people type",
        "AllowedPattern": "[a-z0-9.-]+",
    },
    "BucketRegion": {
        "Type": "String",
        "Description": "Where the bucket with the pictures is",
        "Default": "eu-central-1",
    },
    "BucketName": {
        "Type": "String",
        "Description": "The bucket with the pictures of products",
        "AllowedPattern": "[a-z0-9-]+",
    },
}

# -- Tasks --------------------------------------------------------------------------------


def _secret_of(setting: str, service: str) -> str:
    return f"{service}-owner" if "_OWNER_" in setting else service


def _secrets_of(part: Part) -> list[str]:
    """Return the secrets of the store that a part reads, by name."""
    found = {_secret_of(one, part.service) for one in part.secrets}
    return sorted(found | ({"auth-seed"} if part.files else set()))


def _task(part: Part, lookup: "Lookup") -> Object:
    values = {
        key: _sub(_published(value)) if "shop.example.com" in value else value
        for key, value in part.settings.items()
    }
    values |= _bucket(part)
    container: Object = {
        "Name": part.name,
        "Image": _ref(_image(part.image)),
        "Essential": True,
        # Root stays outside, and nothing asks for rights that it had.
        "User": "101:101" if part.kind == "gateway" else "10001:10001",
        "LinuxParameters": {
            "InitProcessEnabled": False,
            "Capabilities": {"Drop": ["ALL"]},
        },
        "StopTimeout": part.grace,
        "Environment": [
            {"Name": key, "Value": value} for key, value in sorted(values.items())
        ],
        "LogConfiguration": {
            "LogDriver": "awslogs",
            "Options": {
                "awslogs-group": lookup(_title(part.name) + "Log"),
                "awslogs-region": _ref("AWS::Region"),
                "awslogs-stream-prefix": part.name,
            },
        },
    }
    if part.secrets or part.files:
        container["Secrets"] = [_secret(part, one, lookup) for one in part.secrets]
        container["Secrets"] += [
            {
                "Name": "AUTH_CLIENTS",
                "ValueFrom": {
                    "Fn::Sub": [
                        "${Arn}:" + name + "::",
                        {"Arn": lookup("AuthSeedSecret")},
                    ]
                },
            }
            for name in part.files
        ]
    container |= _command(part)
    if part.kind != "job":
        container["HealthCheck"] = {
            "Command": _health(part),
            "Interval": 10,
            "Timeout": 5,
            "Retries": 3,
            "StartPeriod": 60,
        }
    ports = {"gateway": [8080, 8081], "http": [PORT], "process": [PORT], "job": []}
    if ports[part.kind]:
        container["PortMappings"] = [{"ContainerPort": one} for one in ports[part.kind]]
    if part.folders:
        container["MountPoints"] = [
            {"SourceVolume": name, "ContainerPath": path}
            for name, path in part.folders.items()
        ]
    task: Object = {
        "Family": f"flagon-{part.name}",
        "Cpu": "256",
        # Fargate sells 512, 1024 and 2048 MiB with a quarter of a core.
        "Memory": str(next(one for one in (512, 1024, 2048) if one >= part.memory)),
        "NetworkMode": "awsvpc",
        "RequiresCompatibilities": ["FARGATE"],
        "ExecutionRoleArn": lookup(_role(part) + "Arn"),
        "ContainerDefinitions": [container],
    }
    if part.folders:
        # What a task may do with EFS: without a role of its own, what the access point says.
        task["Volumes"] = [
            {
                "Name": name,
                "EFSVolumeConfiguration": {
                    "FilesystemId": lookup("Files"),
                    "TransitEncryption": "ENABLED",
                    "AuthorizationConfig": {
                        "AccessPointId": lookup(f"{_title(name)}Folder")
                    },
                },
            }
            for name in part.folders
        ]
    return _resource("ECS::TaskDefinition", task)


class Lookup:
    """Finds what the platform's template made, from within it or from the other one."""

    def __init__(self, *, inside: bool) -> None:
        """Say from where it is asked."""
        self.inside = inside

    def __call__(self, name: str) -> Object:
        """Return the reference to something by name."""
        if not self.inside:
            return _import(name)
        if name.endswith("Arn"):
            return _get(name.removesuffix("Arn"))
        return _ref(name)


def _published(value: str) -> str:
    return value.replace("shop.example.com", "${HostName}")


def _bucket(part: Part) -> Object:
    if part.service == "catalog":
        return {
            "CATALOG_IMAGES_URL": _sub(
                "https://s3.${BucketRegion}.amazonaws.com/${BucketName}"
            ),
            "CATALOG_IMAGES_REGION": _ref("BucketRegion"),
        }
    if part.kind == "gateway":
        return {"GATEWAY_BUCKET": _sub("s3.${BucketRegion}.amazonaws.com:443")}
    return {}


def _secret(part: Part, setting: str, lookup: Lookup) -> Object:
    name = _title(_secret_of(setting, part.service)) + "Secret"
    return {
        "Name": setting,
        "ValueFrom": {
            "Fn::Sub": ["${Arn}:" + setting.lower() + "::", {"Arn": lookup(name)}]
        },
    }


def _command(part: Part) -> Object:
    if part.kind == "gateway":
        return {"EntryPoint": ["sh", "/etc/flagon/gateway.sh"]}
    if part.files:
        return {
            "EntryPoint": ["python", "-c", _WITH_A_FILE],
            "Command": [*part.entrypoint, *part.arguments],
        }
    return {"Command": list(part.arguments)}


def _health(part: Part) -> list[str]:
    if part.kind == "gateway":
        url = f"http://127.0.0.1:8081{part.alive}"
        return ["CMD", "curl", "-fsS", "-o", "/dev/null", url]
    # ECS ends what is not healthy: a database that is down must end nobody.
    url = f"http://127.0.0.1:{PORT}{part.alive}"
    code = f"from urllib.request import urlopen; urlopen('{url}', timeout=4)"
    return ["CMD", "python", "-IS", "-c", code]


# -- What lasts ---------------------------------------------------------------------------


def _role(part: Part) -> str:
    if part.kind == "gateway":
        return "GatewayRole"
    return _title(part.name if part.kind == "job" else part.service) + "Role"


def _platform(jobs: list[Part], lasting: list[Part]) -> Object:
    everything = [*jobs, *lasting]
    resources = (
        _network()
        | _groups()
        | _postgres()
        | _redis("store", "noeviction")
        | _redis("cache", "allkeys-lru")
        | _folders(everything)
        | _pictures()
        | _store(everything)
        | _logs(everything)
        | _roles(everything)
        | {
            "Cluster": _resource(
                "ECS::Cluster",
                {
                    "ClusterSettings": [
                        {"Name": "containerInsights", "Value": "enabled"}
                    ]
                },
            ),
            "Names": _resource(
                "ServiceDiscovery::PrivateDnsNamespace",
                {"Name": DOMAIN, "Vpc": _ref("Vpc")},
            ),
        }
        | {_title(one.name) + "Task": _task(one, Lookup(inside=True)) for one in jobs}
    )
    exported = {
        name: _get(name.removesuffix("Arn")) if name.endswith("Arn") else _ref(name)
        for name in sorted(_asked_for(lasting))
    }
    outputs: Object = {
        name: {"Value": value, "Export": {"Name": _sub(f"${{AWS::StackName}}-{name}")}}
        for name, value in exported.items()
    }
    # What rollout.sh asks for.
    outputs["Subnets"] = {
        "Value": _sub("${PrivateSubnetA},${PrivateSubnetB}"),
    }
    outputs |= {
        _title(one.name) + "Task": {"Value": _ref(_title(one.name) + "Task")}
        for one in jobs
    }
    return _template(
        "Flagon: network, data, secrets and the jobs of a rollout",
        _HOST | _image_parameters(jobs),
        resources,
        outputs,
    )


def _asked_for(lasting: list[Part]) -> set[str]:
    names = {"Vpc", "Cluster", "NamesArn", "Names", "DoorGroup", "GatewayGroup"}
    names |= {"InsideGroup", "PublicSubnetA", "PublicSubnetB", "Files"}
    names |= {"PrivateSubnetA", "PrivateSubnetB"}
    for one in lasting:
        names |= {_role(one) + "Arn", _title(one.name) + "Log"}
        names |= {_title(secret) + "Secret" for secret in _secrets_of(one)}
        names |= {f"{_title(folder)}Folder" for folder in one.folders}
    return names - {"NamesArn"}


def _network() -> Object:
    found: Object = {
        "Vpc": _resource(
            "EC2::VPC",
            {
                "CidrBlock": NETWORK,
                "EnableDnsSupport": True,
                "EnableDnsHostnames": True,
            },
        ),
        "Internet": _resource("EC2::InternetGateway", {}),
        "InternetAttachment": _resource(
            "EC2::VPCGatewayAttachment",
            {"VpcId": _ref("Vpc"), "InternetGatewayId": _ref("Internet")},
        ),
        "WayOutAddress": _resource(
            "EC2::EIP", {"Domain": "vpc"}, DependsOn="InternetAttachment"
        ),
        "WayOut": _resource(
            "EC2::NatGateway",
            {
                "AllocationId": _get("WayOutAddress", "AllocationId"),
                "SubnetId": _ref("PublicSubnetA"),
            },
        ),
    }
    for kind, target in (
        ("Public", {"GatewayId": _ref("Internet")}),
        ("Private", {"NatGatewayId": _ref("WayOut")}),
    ):
        found[f"{kind}Table"] = _resource("EC2::RouteTable", {"VpcId": _ref("Vpc")})
        route = {
            "RouteTableId": _ref(f"{kind}Table"),
            "DestinationCidrBlock": "0.0.0.0/0",
            **target,
        }
        found[f"{kind}Route"] = _resource(
            "EC2::Route", route, DependsOn="InternetAttachment"
        )
        for number, zone in enumerate("AB"):
            name = f"{kind}Subnet{zone}"
            third = number + (0 if kind == "Public" else 10)
            found[name] = _resource(
                "EC2::Subnet",
                {
                    "VpcId": _ref("Vpc"),
                    "CidrBlock": f"10.20.{third}.0/24",
                    "AvailabilityZone": {"Fn::Select": [number, {"Fn::GetAZs": ""}]},
                    "MapPublicIpOnLaunch": False,
                },
            )
            found[f"{name}Table"] = _resource(
                "EC2::SubnetRouteTableAssociation",
                {"SubnetId": _ref(name), "RouteTableId": _ref(f"{kind}Table")},
            )
    return found


_WAYS = {
    "Door": [("0.0.0.0/0", 80), ("0.0.0.0/0", 443)],
    "Gateway": [("Door", 8080), ("Door", 8081), ("Inside", 8081)],
    "Inside": [("Gateway", PORT), ("Inside", PORT)],
    "Postgres": [("Inside", 5432)],
    "Redis": [("Inside", 6379)],
    "Files": [("Inside", 2049)],
}
"""Who may come, and to which port, by what they come to."""


def _groups() -> Object:
    found: Object = {}
    for name, ways in _WAYS.items():
        found[f"{name}Group"] = _resource(
            "EC2::SecurityGroup",
            {"GroupDescription": f"What comes to {name}", "VpcId": _ref("Vpc")},
        )
        for source, port in ways:
            whose: Object = (
                {"CidrIp": source}
                if "/" in source
                else {"SourceSecurityGroupId": _ref(f"{source}Group")}
            )
            label = "World" if "/" in source else source
            found[f"{name}From{label}{port}"] = _resource(
                "EC2::SecurityGroupIngress",
                {
                    "GroupId": _ref(f"{name}Group"),
                    "IpProtocol": "tcp",
                    "FromPort": port,
                    "ToPort": port,
                    **whose,
                },
            )
    return found


_BOTH = [_ref("PrivateSubnetA"), _ref("PrivateSubnetB")]
_KEPT = {"DeletionPolicy": "Snapshot", "UpdateReplacePolicy": "Snapshot"}


def _postgres() -> Object:
    return {
        "PostgresSubnets": _resource(
            "RDS::DBSubnetGroup",
            {"DBSubnetGroupDescription": "Inside", "SubnetIds": _BOTH},
        ),
        "PostgresSettings": _resource(
            "RDS::DBParameterGroup",
            {
                "Description": "Nobody speaks to it in clear",
                "Family": f"postgres{_ENGINE}",
                "Parameters": {"rds.force_ssl": "1"},
            },
        ),
        "Postgres": _resource(
            "RDS::DBInstance",
            {
                "Engine": "postgres",
                "EngineVersion": _VERSION,
                "DBInstanceClass": "db.t4g.medium",
                "AllocatedStorage": "50",
                "StorageType": "gp3",
                "StorageEncrypted": True,
                "MultiAZ": True,
                "PubliclyAccessible": False,
                "BackupRetentionPeriod": 14,
                "CopyTagsToSnapshot": True,
                "DeletionProtection": True,
                "MasterUsername": "flagon",
                "ManageMasterUserPassword": True,
                "DBParameterGroupName": _ref("PostgresSettings"),
                "DBSubnetGroupName": _ref("PostgresSubnets"),
                "VPCSecurityGroups": [_ref("PostgresGroup")],
            },
            **_KEPT,
        ),
    }


def _access(name: str) -> dict[str, str]:
    """Return what each user may do in a Redis, from the one ACL."""
    path = ROOT / "deploy" / "redis" / f"{name}.acl.template"
    found = {}
    text = path.read_text().replace("${REDIS_AUTH_MAILS}", MAILS["celery"])
    for line in text.splitlines():
        words = line.split()
        if words[1] in SERVICES:
            rights = [one for one in words[2:] if not one.startswith("#")]
            found[words[1]] = " ".join(rights)
    return found


def _redis(name: str, policy: str) -> Object:
    title = f"Redis{name.capitalize()}"
    users = _access(name)
    found: Object = {
        f"{title}Subnets": _resource(
            "ElastiCache::SubnetGroup", {"Description": "Inside", "SubnetIds": _BOTH}
        ),
        f"{title}Settings": _resource(
            "ElastiCache::ParameterGroup",
            {
                "CacheParameterGroupFamily": "redis7",
                "Description": "What happens when it is full",
                "Properties": {"maxmemory-policy": policy},
            },
        ),
        f"{title}Nobody": _resource(
            "ElastiCache::User",
            {
                "Engine": "redis",
                "UserId": f"flagon-{name}-default",
                "UserName": "default",
                "NoPasswordRequired": True,
                "AccessString": "off -@all",
            },
        ),
    }
    for user, rights in users.items():
        secret = f"{title}{user.capitalize()}Password"
        found[secret] = _resource(
            "SecretsManager::Secret",
            {
                "Name": f"flagon/redis-{name}/{user}",
                "GenerateSecretString": {
                    "PasswordLength": 48,
                    "ExcludePunctuation": True,
                },
            },
        )
        found[f"{title}{user.capitalize()}"] = _resource(
            "ElastiCache::User",
            {
                "Engine": "redis",
                "UserId": f"flagon-{name}-{user}",
                "UserName": user,
                "Passwords": [
                    _sub("{{resolve:secretsmanager:${" + secret + "}:SecretString}}")
                ],
                "AccessString": rights,
            },
        )
    found[f"{title}Users"] = _resource(
        "ElastiCache::UserGroup",
        {
            "Engine": "redis",
            "UserGroupId": f"flagon-{name}",
            "UserIds": [
                _ref(f"{title}{user}")
                for user in ("Nobody", *(one.capitalize() for one in users))
            ],
        },
    )
    found[title] = _resource(
        "ElastiCache::ReplicationGroup",
        {
            "ReplicationGroupDescription": f"The Redis {name}",
            "Engine": "redis",
            "EngineVersion": "7.1",
            "CacheNodeType": "cache.t4g.small",
            "NumCacheClusters": 2,
            "AutomaticFailoverEnabled": True,
            "MultiAZEnabled": True,
            "AtRestEncryptionEnabled": True,
            "TransitEncryptionEnabled": True,
            "SnapshotRetentionLimit": 7 if name == "store" else 0,
            "CacheParameterGroupName": _ref(f"{title}Settings"),
            "CacheSubnetGroupName": _ref(f"{title}Subnets"),
            "SecurityGroupIds": [_ref("RedisGroup")],
            "UserGroupIds": [_ref(f"{title}Users")],
        },
        **(_KEPT if name == "store" else {}),
    )
    return found


def _folders(parts: list[Part]) -> Object:
    found: Object = {
        "Files": _resource(
            "EFS::FileSystem",
            {"Encrypted": True, "BackupPolicy": {"Status": "ENABLED"}},
            DeletionPolicy="Retain",
            UpdateReplacePolicy="Retain",
        )
    }
    for zone in "AB":
        found[f"FilesIn{zone}"] = _resource(
            "EFS::MountTarget",
            {
                "FileSystemId": _ref("Files"),
                "SubnetId": _ref(f"PrivateSubnet{zone}"),
                "SecurityGroups": [_ref("FilesGroup")],
            },
        )
    for name in sorted({name for one in parts for name in one.folders}):
        ids = {"Uid": "10001", "Gid": "10001"}
        made = {"OwnerUid": "10001", "OwnerGid": "10001", "Permissions": "0700"}
        found[f"{_title(name)}Folder"] = _resource(
            "EFS::AccessPoint",
            {
                "FileSystemId": _ref("Files"),
                "PosixUser": ids,
                "RootDirectory": {"Path": f"/{name}", "CreationInfo": made},
            },
        )
    return found


def _pictures() -> Object:
    """Return the bucket and who writes it: an operator makes the key of this user."""
    return {
        "Pictures": _resource(
            "S3::Bucket",
            {
                "BucketName": _ref("BucketName"),
                "VersioningConfiguration": {"Status": "Enabled"},
                "PublicAccessBlockConfiguration": {
                    "BlockPublicAcls": True,
                    "BlockPublicPolicy": True,
                    "IgnorePublicAcls": True,
                    "RestrictPublicBuckets": True,
                },
            },
            DeletionPolicy="Retain",
            UpdateReplacePolicy="Retain",
        ),
        "PicturesWriter": _resource("IAM::User", {}),
        "PicturesWriterRights": _resource(
            "IAM::UserPolicy",
            {
                "UserName": _ref("PicturesWriter"),
                "PolicyName": "pictures",
                "PolicyDocument": _policy(
                    (
                        ["s3:GetObject", "s3:PutObject", "s3:DeleteObject"],
                        {"Fn::Sub": "${Pictures.Arn}/*"},
                    ),
                    (["s3:ListBucket"], _get("Pictures")),
                ),
            },
        ),
    }


def _policy(*statements: tuple[list[str], object]) -> Object:
    return {
        "Version": "2012-10-17",
        "Statement": [
            {"Effect": "Allow", "Action": actions, "Resource": resource}
            for actions, resource in statements
        ],
    }


def _store(parts: list[Part]) -> Object:
    """Return the secrets, empty: rollout.sh stops until somebody has filled them."""
    names = sorted({name for one in parts for name in _secrets_of(one)})
    return {
        _title(name) + "Secret": _resource(
            "SecretsManager::Secret",
            {"Name": f"flagon/{name}", "Description": "One JSON object of settings"},
            DeletionPolicy="Retain",
            UpdateReplacePolicy="Retain",
        )
        for name in names
    }


def _logs(parts: list[Part]) -> Object:
    return {
        _title(one.name) + "Log": _resource(
            "Logs::LogGroup",
            {"LogGroupName": f"/flagon/{one.name}", "RetentionInDays": 30},
            DeletionPolicy="Delete",
            UpdateReplacePolicy="Delete",
        )
        for one in parts
    }


def _roles(parts: list[Part]) -> Object:
    """Return roles that start tasks: each reads its own secrets and writes its own logs."""
    found: Object = {}
    for role in sorted({_role(one) for one in parts}):
        own = [one for one in parts if _role(one) == role]
        secrets = sorted({name for one in own for name in _secrets_of(one)})
        statements: list[tuple[list[str], object]] = [
            (
                ["logs:CreateLogStream", "logs:PutLogEvents"],
                [_get(_title(one.name) + "Log") for one in own],
            ),
            (
                [
                    "ecr:BatchCheckLayerAvailability",
                    "ecr:BatchGetImage",
                    "ecr:GetDownloadUrlForLayer",
                ],
                _sub(
                    "arn:${AWS::Partition}:ecr:${AWS::Region}:${AWS::AccountId}"
                    f":repository/{own[0].image.replace('-', '/', 1)}"
                ),
            ),
            # It has no resource: https://docs.aws.amazon.com/service-authorization/
            (["ecr:GetAuthorizationToken"], "*"),
        ]
        if secrets:
            statements.append(
                (
                    ["secretsmanager:GetSecretValue"],
                    [_ref(_title(name) + "Secret") for name in secrets],
                )
            )
        found[role] = _resource(
            "IAM::Role",
            {
                "AssumeRolePolicyDocument": {
                    "Version": "2012-10-17",
                    "Statement": [
                        {
                            "Effect": "Allow",
                            "Principal": {"Service": "ecs-tasks.amazonaws.com"},
                            "Action": "sts:AssumeRole",
                        }
                    ],
                },
                "Policies": [
                    {"PolicyName": "start", "PolicyDocument": _policy(*statements)}
                ],
            },
        )
    return found


# -- What is rolled out -------------------------------------------------------------------


def _services(lasting: list[Part]) -> Object:
    resources = _door()
    for one in lasting:
        title = _title(one.name)
        resources[f"{title}Task"] = _task(one, Lookup(inside=False))
        resources[f"{title}Service"] = _service(one)
        if one.kind in {"gateway", "http"}:
            resources[f"{title}Name"] = _resource(
                "ServiceDiscovery::Service",
                {
                    "Name": one.name,
                    "NamespaceId": _import("Names"),
                    "DnsConfig": {"DnsRecords": [{"Type": "A", "TTL": 5}]},
                    "HealthCheckCustomConfig": {"FailureThreshold": 1},
                },
            )
    parameters = {
        "Platform": {"Type": "String", "Description": "The stack of platform.yaml"},
        "CertificateArn": {
            "Type": "String",
            "Description": "The certificate of the name that people type",
            "AllowedPattern": "arn:.+",
        },
        **_HOST,
        **_image_parameters(lasting),
    }
    return _template(
        "Flagon: what runs, after the jobs of platform.yaml",
        parameters,
        resources,
        {"Door": {"Value": _get("Door", "DNSName")}},
    )


def _service(part: Part) -> Object:
    title = _title(part.name)
    group = "GatewayGroup" if part.kind == "gateway" else "InsideGroup"
    # Of the one that keeps the time never two; of others a new one is there first.
    share = (0, 100) if part.name == "worker-beat" else (100, 200)
    service: Object = {
        "Cluster": _import("Cluster"),
        "LaunchType": "FARGATE",
        "TaskDefinition": _ref(f"{title}Task"),
        "DesiredCount": 1 if part.single else part.copies,
        "DeploymentConfiguration": {
            "MinimumHealthyPercent": share[0],
            "MaximumPercent": share[1],
            "DeploymentCircuitBreaker": {"Enable": True, "Rollback": True},
        },
        "EnableExecuteCommand": False,
        "NetworkConfiguration": {
            "AwsvpcConfiguration": {
                "AssignPublicIp": "DISABLED",
                "SecurityGroups": [_import(group)],
                "Subnets": [_import("PrivateSubnetA"), _import("PrivateSubnetB")],
            }
        },
    }
    if part.kind in {"gateway", "http"}:
        service["ServiceRegistries"] = [{"RegistryArn": _get(f"{title}Name")}]
    more: Object = {}
    if part.kind == "gateway":
        service["LoadBalancers"] = [
            {
                "ContainerName": part.name,
                "ContainerPort": 8080,
                "TargetGroupArn": _ref("DoorTargets"),
            }
        ]
        service["HealthCheckGracePeriodSeconds"] = 60
        more = {"DependsOn": "DoorHttps"}
    return _resource("ECS::Service", service, **more)


def _door() -> Object:
    return {
        "Door": _resource(
            "ElasticLoadBalancingV2::LoadBalancer",
            {
                "Type": "application",
                "Scheme": "internet-facing",
                "SecurityGroups": [_import("DoorGroup")],
                "Subnets": [_import("PublicSubnetA"), _import("PublicSubnetB")],
                "LoadBalancerAttributes": [
                    # Longer than the gateway waits for a sign of life of a stream.
                    {
                        "Key": "idle_timeout.timeout_seconds",
                        "Value": str(2 * STREAM_SECONDS),
                    },
                    {
                        "Key": "routing.http.drop_invalid_header_fields.enabled",
                        "Value": "true",
                    },
                ],
            },
        ),
        "DoorTargets": _resource(
            "ElasticLoadBalancingV2::TargetGroup",
            {
                "VpcId": _import("Vpc"),
                "TargetType": "ip",
                "Protocol": "HTTP",
                "Port": 8080,
                "HealthCheckPort": "8081",
                "HealthCheckPath": "/healthz",
                "HealthCheckIntervalSeconds": 10,
                "TargetGroupAttributes": [
                    {"Key": "deregistration_delay.timeout_seconds", "Value": "10"}
                ],
            },
        ),
        "DoorHttps": _resource(
            "ElasticLoadBalancingV2::Listener",
            {
                "LoadBalancerArn": _ref("Door"),
                "Port": 443,
                "Protocol": "HTTPS",
                "SslPolicy": "ELBSecurityPolicy-TLS13-1-3-2021-06",
                "Certificates": [{"CertificateArn": _ref("CertificateArn")}],
                "DefaultActions": [
                    {"Type": "forward", "TargetGroupArn": _ref("DoorTargets")}
                ],
            },
        ),
        "DoorHttp": _resource(
            "ElasticLoadBalancingV2::Listener",
            {
                "LoadBalancerArn": _ref("Door"),
                "Port": 80,
                "Protocol": "HTTP",
                "DefaultActions": [
                    {
                        "Type": "redirect",
                        "RedirectConfig": {
                            "Protocol": "HTTPS",
                            "Port": "443",
                            "StatusCode": "HTTP_301",
                        },
                    }
                ],
            },
        ),
    }
