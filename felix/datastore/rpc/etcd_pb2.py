"""The message classes of etcd.proto, built from its compiled description `etcd.desc` beside this file.

protoc's own Python output is not used: it refuses to be imported by a protobuf two major versions away from the one
that made it, and it registers in the process-wide pool, where any other etcd client would collide with ours. Types are
in `etcd_pb2.pyi`. `.desc` and `.pyi` are generated, see `make proto`.
"""

from importlib.resources import files

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_files = descriptor_pb2.FileDescriptorSet.FromString(files(__package__).joinpath("etcd.desc").read_bytes())
_pool = descriptor_pool.DescriptorPool()
for _file in _files.file:
    _pool.AddSerializedFile(_file.SerializeToString())

DESCRIPTOR = _pool.FindFileByName(_files.file[0].name)
for _name, _descriptor in DESCRIPTOR.message_types_by_name.items():
    globals()[_name] = message_factory.GetMessageClass(_descriptor)
