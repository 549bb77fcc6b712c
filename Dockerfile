# Two images from one build:
#   docker build --target server -t fedllm-server .
#   docker build --target client -t fedllm-client .
# Both run as user 65532 with a read-only root: mount the folder with the configuration at /etc/fedllm and a volume at
# /var/lib/fedllm (state_directory in the configuration). See deploy/README.md.
FROM debian:bookworm-slim AS build
COPY deploy/packages.sh /tmp/packages.sh
RUN apt-get update -qq && bash -c '. /tmp/packages.sh && fedllm_install $(fedllm_build_packages)'
COPY . /source
WORKDIR /source
RUN cmake -S . -B /build -G Ninja -DCMAKE_BUILD_TYPE=Release -DFEDLLM_TESTS=OFF \
    && cmake --build /build --target fedllm fedllm-server fedllm-client \
    && strip /build/server/fedllm-server /build/client/fedllm-client /build/tools/fedllm

FROM debian:bookworm-slim AS runtime
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends \
        libssl3 libcurl4 ca-certificates libprotobuf32 libyaml-cpp0.7 libprometheus-cpp-core1.0 libsqlite3-0 libspdlog1.10 libfmt9 libhwy1 \
    && rm -rf /var/lib/apt/lists/* \
    && install -d -o 65532 -g 65532 -m 0700 /var/lib/fedllm
VOLUME /var/lib/fedllm
USER 65532:65532
WORKDIR /var/lib/fedllm

FROM runtime AS server
COPY --from=build /build/server/fedllm-server /build/tools/fedllm /usr/bin/
EXPOSE 7443 7480
# /healthz on the admin port; bash speaks enough HTTP for that.
HEALTHCHECK --interval=30s --timeout=5s --start-period=10s CMD ["bash", "-c", \
    "exec 3<>/dev/tcp/127.0.0.1/7480 && printf 'GET /healthz HTTP/1.0\\r\\n\\r\\n' >&3 && grep -q '^ok' <&3"]
ENTRYPOINT ["fedllm-server", "--config", "/etc/fedllm/server.yaml"]

FROM runtime AS client
COPY --from=build /build/client/fedllm-client /usr/bin/
ENTRYPOINT ["fedllm-client", "--config", "/etc/fedllm/client.yaml"]
