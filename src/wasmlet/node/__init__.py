"""What the machine is to a cluster. Today its capacity; registration, lease and conditions will stand here."""
