"""A server put together: its folder, its processes, its port."""
