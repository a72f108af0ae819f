# nginx with what it serves as files; in a cluster its configuration comes from there, in other
# places `sh /etc/flagon/gateway.sh` makes it of what is in here. flagonctl/image.py gives the
# folder with the pages of the API's document as the context `pages`:
#
#   PYTHONPATH=deploy/local python -m flagonctl.image gateway --load --tag NAME
ARG NGINX=nginx:1.26
FROM ${NGINX} AS files
COPY services/web/src/flagon_web/static /made/usr/share/flagon/static
COPY docs/architecture.md docs/events.md docs/problems.md /made/usr/share/flagon/docs/
COPY docs/runbooks /made/usr/share/flagon/docs/runbooks
COPY docs/api/openapi.json /made/usr/share/flagon/docs/api/openapi.json
COPY gateway/*.conf gateway/*.sh gateway/*.template /made/etc/flagon/source/
COPY deploy/k8s/base/gateway/render.sh deploy/k8s/images/gateway.sh /made/etc/flagon/
COPY --from=pages . /made/usr/share/flagon/pages
# The times and rights of a checkout are those of whoever made it.
RUN chmod -R u=rwX,go=rX /made && find /made -exec touch --no-dereference --date=@0 {} +

FROM ${NGINX}
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="flagon-gateway" \
      org.opencontainers.image.description="The gateway of Flagon" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --link --from=files /made/ /
USER 101:101
EXPOSE 8080 8443 8081
