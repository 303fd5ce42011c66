"""The JSON Schema of a stack file, generated from the models; `nordmesh schema` writes it.

Editors use it to complete and check Pulumi.<stack>.yaml. It describes single values; the preview
and `nordmesh explain` check what needs several values or a file.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import core_schema

from config import EXAMPLE, SECRETS, StackConfig, catalogue
from config.base import defaults
from config.data_loss import switch
from config.errors import NAMESPACE
from config.keys import PACKAGES, POLICY_KEYS, POLICY_NAMESPACE
from config.machines import pools
from config.scalars.shapes import SHAPES

PATH = Path(__file__).resolve().parents[1] / "schema" / "nordmesh.schema.json"
MODELINE = "# yaml-language-server: $schema=schema/nordmesh.schema.json"
"""What the first line of a stack file is, so that editors find the schema."""

Schema = dict[str, Any]

# Draft 7 is the newest that all editors' YAML servers know.
_DRAFT = "http://json-schema.org/draft-07/schema#"
_RELEASES: Mapping[str, Mapping[str, object]] = {
    "Kubernetes": catalogue.KUBERNETES,
    "Istio": catalogue.ISTIO,
}
_ABOUT = ("description", "default", "examples")
_SECRET = {
    "type": "object",
    "description": "an encrypted value; `pulumi config set --secret` writes it",
    "properties": {"secure": {"type": "string"}},
    "required": ["secure"],
    "additionalProperties": False,
}


def schema() -> Schema:
    """The JSON Schema (draft 7) of a whole Pulumi.<stack>.yaml."""
    models = _models()
    sections = {f"{NAMESPACE}:{name}": section for name, section in models["properties"].items()}
    config = {
        "type": "object",
        "description": "the stack's settings, by package",
        "properties": {
            **sections,
            **{
                f"{NAMESPACE}:{key}": {
                    "description": description,
                    "allOf": [{"$ref": "#/definitions/Secret"}],
                }
                for key, description in SECRETS.items()
            },
            EXAMPLE: {
                "description": "whether this file is an example, which no pipeline deploys",
                "enum": [True, False, "true", "false"],
            },
        },
        # Settings of packages, for example kubernetes:context, and of the policy pack.
        "patternProperties": {
            f"^({'|'.join(PACKAGES)}):.+": True,
            f"^{POLICY_NAMESPACE}:({'|'.join(POLICY_KEYS)})$": True,
        },
        "required": [f"{NAMESPACE}:{name}" for name in models["required"]],
        "additionalProperties": False,
    }
    return {
        "$schema": _DRAFT,
        "title": f"A stack of {NAMESPACE}",
        "description": models["description"],
        "type": "object",
        "properties": {
            "config": config,
            "environment": {"description": "Pulumi environments whose settings are imported"},
            "encryptionsalt": {
                "type": "string",
                "description": "the salt of the passphrase's key; pulumi writes it",
            },
            "encryptedkey": {
                "type": "string",
                "description": "the stack's key, encrypted by the secrets provider",
            },
            "secretsprovider": {
                "type": "string",
                "description": "the key service that encrypts the stack's secrets",
                "examples": ["passphrase"],
            },
        },
        "required": ["config"],
        "additionalProperties": False,
        "definitions": {**models["$defs"], "Secret": _SECRET},
    }


def _models() -> Schema:
    """The schema of the models, as they may be in a file."""
    template = "#/definitions/{model}"
    made = StackConfig.model_json_schema(ref_template=template, schema_generator=_Generator)
    models = _tidy(made)
    definitions = models["$defs"]
    for model, releases in _RELEASES.items():
        version = definitions[model]["properties"]["version"]
        version.pop("pattern")
        version["enum"] = list(releases)
    for model in definitions.values():
        properties = model.get("properties", {})
        properties |= {key: _or_secret(value) for key, value in properties.items()}
    for model in ("ContainerNode", "ExistingNode", "KvmNode"):
        _allow_pool(definitions[model])
    return models


class _Generator(GenerateJsonSchema):
    """Pydantic's generator, with the shapes of our own validators."""

    def function_before_schema(self, schema: core_schema.BeforeValidatorFunctionSchema) -> Schema:
        if schema["function"]["function"] is defaults:
            return {"anyOf": [self.generate_inner(schema["schema"]), {"type": "null"}]}
        if schema["function"]["function"] is switch:
            old = {"type": "boolean", "description": "the form of earlier releases"}
            return {"anyOf": [self.generate_inner(schema["schema"]), old]}
        shape = SHAPES.get(schema["function"]["function"])
        return dict(shape) if shape else super().function_before_schema(schema)

    def dict_schema(self, schema: core_schema.DictSchema) -> Schema:
        """A mapping; pydantic leaves out the names if they are numbers or of a list."""
        made = super().dict_schema(schema)
        names = self.generate_inner(schema["keys_schema"]) if "keys_schema" in schema else {}
        if "enum" in names:
            made["propertyNames"] = {"enum": names["enum"]}
        elif names.get("type") == "integer":
            made["propertyNames"] = {"pattern": r"^\d+$"}
        return made

    def nullable_schema(self, schema: core_schema.NullableSchema) -> Schema:
        # Keys without a value are refused; config.base marks the few exceptions.
        return self.generate_inner(schema["schema"])

    def function_after_schema(self, schema: core_schema.AfterValidatorFunctionSchema) -> Schema:
        shape = SHAPES.get(schema["function"]["function"])
        if shape is None:
            return super().function_after_schema(schema)
        # The shape of a value is complete; that of a list only adds to it.
        is_addition = "type" not in shape and "enum" not in shape
        return {**self.generate_inner(schema["schema"]), **shape} if is_addition else dict(shape)


def text() -> str:
    """The content of the schema file."""
    return json.dumps(schema(), indent=2) + "\n"


def _allow_pool(node: Schema) -> None:
    """Require the keys of a node that its pool may set only where it has no pool."""
    shared = [key for key in node["required"] if key in pools.KEYS]
    if shared:
        node["required"] = [key for key in node["required"] if key not in shared]
        node["anyOf"] = [{"required": ["pool"]}, {"required": shared}]


def _or_secret(value: Schema) -> Schema:
    """The schema of a key that may be encrypted, if its value is text, a number or a list."""
    options = value.get("anyOf", [value])
    if "const" in value or not all(
        {"type", "enum"} & option.keys() and option.get("type") != "object" for option in options
    ):
        return value
    about: Schema = {key: value[key] for key in _ABOUT if key in value}
    if "anyOf" not in value:
        options = [{key: inner for key, inner in value.items() if key not in about}]
    return {**about, "anyOf": [*options, {"$ref": "#/definitions/Secret"}]}


def _tidy(node: Schema) -> Schema:
    """A schema from pydantic in draft 7, without parts that editors do not need."""
    # `discriminator` is OpenAPI's; titles repeat the key.
    tidy = {key: value for key, value in node.items() if key not in ("title", "discriminator")}
    for key in ("properties", "patternProperties", "$defs"):
        if key in tidy:
            tidy[key] = {name: _tidy(inner) for name, inner in tidy[key].items()}
    for key in ("anyOf", "oneOf", "allOf"):
        if key in tidy:
            tidy[key] = [_tidy(inner) for inner in tidy[key]]
    for key in ("items", "additionalProperties", "propertyNames"):
        if isinstance(tidy.get(key), dict):
            tidy[key] = _tidy(tidy[key])
    if "patternProperties" in tidy:  # other names are refused
        tidy.setdefault("additionalProperties", False)
    if tidy.get("default", ...) is None:  # an editor would write a null, which is refused
        del tidy["default"]
    if tidy.get("examples") == [{}]:  # only for config.faults
        del tidy["examples"]
    if "$ref" in tidy and len(tidy) > 1:  # draft 7 ignores keys beside a $ref
        tidy["allOf"] = [{"$ref": tidy.pop("$ref")}]
    return tidy
