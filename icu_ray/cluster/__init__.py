"""Ray itself: connecting to it, its nodes, the watch over its head, spot notices.

Read in this order:

- runtime.py: `connected`, a Ray for the time of a block: the cluster that is there, or one started here
- environment.py, authentication.py, temp_folder.py: what that Ray runs under: variables, token, folder
- fork_server.py, forked_worker.py: its processes, forked from one that has imported what they need
- nodes.py: what a machine, a cluster or its autoscaler can hold; refuses what could never be placed
- head_watch.py: tells the driver when the Ray under it is gone
- spot_notice.py: a command for spot machines: drains the node when its cloud takes it away

The package knows Ray and plain values of plan/ (a node, a worker group). It must not know trials or models.
Importing it does not import Ray, so that a dry run stays quick.
"""
