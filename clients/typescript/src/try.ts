// Makes a tag, finds it and takes it away again: FLAGON_URL and FLAGON_TOKEN say where.

import { flagon } from "./index.js";

const env = (name: string): string => {
  const value = process.env[name];
  if (value === undefined) throw new Error(`${name} is not set`);
  return value;
};
const api = flagon(env("FLAGON_URL"), () => env("FLAGON_TOKEN"));
const slug = env("FLAGON_SLUG");

const made = await api.POST("/api/v1/tags", { body: { slug, name: "Of a script" } });
if (made.error) throw new Error(made.error.title);
const again = await api.POST("/api/v1/tags", { body: { slug, name: "Of a script" } });
const path = { tag_id: made.data.id };
const found = await api.GET("/api/v1/tags/{tag_id}", { params: { path } });
const version = found.response.headers.get("ETag") ?? "";
const gone = await api.DELETE("/api/v1/tags/{tag_id}", {
  params: { path, header: { "If-Match": version } },
});
console.log(
  JSON.stringify({
    slug: found.data?.slug,
    again: again.error?.type.split("#")[1],
    gone: gone.response.status,
  }),
);
