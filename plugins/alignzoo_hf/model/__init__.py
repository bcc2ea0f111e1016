"""Models: loaded, adapted, quantised, sharded, checked and saved; and the policy that they make."""
