"""Values to bytes and back, exactly or not at all (floor 2, pure)."""

from __future__ import annotations

from dagrelay.serializers.base import Serializer as Serializer
from dagrelay.serializers.base import SerializerRegistry as SerializerRegistry
from dagrelay.serializers.base import encode as encode
from dagrelay.serializers.converter import check_type as check_type
from dagrelay.serializers.converter import structure as structure
from dagrelay.serializers.converter import unstructure as unstructure
from dagrelay.serializers.json import JsonSerializer as JsonSerializer
from dagrelay.serializers.json import encode_json as encode_json

__all__ = (
    "JsonSerializer",
    "Serializer",
    "SerializerRegistry",
    "check_type",
    "encode",
    "encode_json",
    "structure",
    "unstructure",
)
