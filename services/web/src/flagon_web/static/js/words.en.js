// Made by `make translations`.
export default {};
