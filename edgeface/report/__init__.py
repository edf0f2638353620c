"""Pages and pictures: what people rather look at than read."""
