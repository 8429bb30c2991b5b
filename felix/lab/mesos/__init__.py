"""A simulator of Mesos agents, their master and a Marathon, on the virtual hosts of a lab. Not Mesos.

No Mesos can be had here, so what its agent does around a container's network is done again: fork into a new network
namespace, block on a pipe, prepare, isolate, exec, report with addresses, clean up, recover after a restart. The
containers are real processes in real namespaces, the plug-ins are called exactly as Mesos calls them.
"""
