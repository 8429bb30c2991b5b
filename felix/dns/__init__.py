"""Service discovery: names for what runs, from the datastore and from a Mesos master, over DNS and HTTP.

sources            mesos (state → records), endpoints + templates (workload endpoints → records): pure
read, watch        ask a Mesos master, follow etcd: shell
zone               all records, counted by owner, so that a change touches its own names only
answer, respond    question → sections → packet, remembered until the name changes
ask                questions for others, forwarded to resolvers
serve, api         UDP and TCP, HTTP
main               puts it together
"""
