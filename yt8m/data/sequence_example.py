"""The messages of `tf.train.SequenceExample`, defined here, so that protobuf alone reads and writes them."""

from functools import cache
from types import SimpleNamespace
from typing import Any

_PACKAGE = "tensorflow"


@cache
def messages() -> SimpleNamespace:
    """The message classes that `tf.train` has: `SequenceExample`, `Features`, `Feature`, `BytesList` and so on.

    They are of a pool of their own: TensorFlow may be imported beside them.
    """
    from google.protobuf import descriptor_pool, message_factory
    from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto

    kinds = {
        "bytes": FieldDescriptorProto.TYPE_BYTES,
        "float": FieldDescriptorProto.TYPE_FLOAT,
        "int64": FieldDescriptorProto.TYPE_INT64,
        "string": FieldDescriptorProto.TYPE_STRING,
    }

    def field(name: str, number: int, of: str, repeated: bool = False, **options: Any) -> FieldDescriptorProto:
        """A field of one of `kinds`, or of the message `of`."""
        result = FieldDescriptorProto(name=name, number=number, **options)
        result.label = FieldDescriptorProto.LABEL_REPEATED if repeated else FieldDescriptorProto.LABEL_OPTIONAL
        if of in kinds:
            result.type = kinds[of]
        else:
            result.type, result.type_name = FieldDescriptorProto.TYPE_MESSAGE, f".{_PACKAGE}.{of}"
        return result

    def named(name: str, key: str, of: str) -> DescriptorProto:
        """A message of one map from names to messages `of`."""
        entry = DescriptorProto(name=f"{key.title().replace('_', '')}Entry")  # this name is required
        entry.field.extend([field("key", 1, "string"), field("value", 2, of)])
        entry.options.map_entry = True
        return DescriptorProto(name=name, field=[field(key, 1, f"{name}.{entry.name}", True)], nested_type=[entry])

    feature = DescriptorProto(
        name="Feature",
        field=[
            field("bytes_list", 1, "BytesList", oneof_index=0),
            field("float_list", 2, "FloatList", oneof_index=0),
            field("int64_list", 3, "Int64List", oneof_index=0),
        ],
    )
    feature.oneof_decl.add(name="kind")
    file = FileDescriptorProto(
        name="sequence_example.proto",
        package=_PACKAGE,
        syntax="proto3",
        message_type=[
            DescriptorProto(name="BytesList", field=[field("value", 1, "bytes", True)]),
            DescriptorProto(name="FloatList", field=[field("value", 1, "float", True)]),
            DescriptorProto(name="Int64List", field=[field("value", 1, "int64", True)]),
            feature,
            named("Features", "feature", "Feature"),
            DescriptorProto(name="FeatureList", field=[field("feature", 1, "Feature", True)]),
            named("FeatureLists", "feature_list", "FeatureList"),
            DescriptorProto(
                name="SequenceExample",
                field=[field("context", 1, "Features"), field("feature_lists", 2, "FeatureLists")],
            ),
        ],
    )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    descriptors = pool.FindFileByName(file.name).message_types_by_name
    return SimpleNamespace(**{name: message_factory.GetMessageClass(found) for name, found in descriptors.items()})
