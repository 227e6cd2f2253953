"""What the world says → sightings, by etcd, Patroni and PostgreSQL. Further in nobody sees bytes or JSON."""
