"""The demonstration: the three stages of net-modules' Star demo on the lab's small Mesos, each cell tried for real.

`expected` says what must be seen and `report` how it is shown (both only compute); `world` has the lab with master,
name servers and page; `trying` sends the packets; `stages` are the steps; `leaks` looks for what is left.
"""
