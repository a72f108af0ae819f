# nginx with what it serves as files; in a cluster its configuration comes from there, in other
# places `sh /etc/flagon/gateway.sh` makes it of what is in here. `cluster.py images`
# gives the folder with the pages of the API's document as the context `pages`:
#
#   docker build --file deploy/k8s/images/gateway.Dockerfile --build-context pages=DIR .
FROM nginx:1.26
COPY services/web/src/flagon_web/static /usr/share/flagon/static
COPY docs/architecture.md docs/events.md docs/problems.md /usr/share/flagon/docs/
COPY docs/runbooks /usr/share/flagon/docs/runbooks
COPY docs/api/openapi.json /usr/share/flagon/docs/api/openapi.json
COPY gateway/*.conf gateway/*.sh gateway/*.template /etc/flagon/source/
COPY deploy/k8s/base/gateway/render.sh deploy/k8s/images/gateway.sh /etc/flagon/
COPY --from=pages . /usr/share/flagon/pages
USER 101:101
EXPOSE 8080 8443 8081
