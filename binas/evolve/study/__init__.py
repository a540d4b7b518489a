"""What workers share: the storage, leases on candidates, and the loop of a worker."""
