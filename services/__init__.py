"""The components of the mesh; none of them imports another."""
