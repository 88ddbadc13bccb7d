"""Jobs on machines of a cluster: what each of them does, how it does it, and what becomes of what comes back."""
