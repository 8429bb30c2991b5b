"""The HTTP interface: Mesos-DNS's routes and answers, and what Felix adds for operators."""
