# The gateway and nothing else: `docker build .` here, or `gcloud run deploy --source=.`, which runs just that. Plain
# Dockerfile instructions only, so that every builder takes it.
FROM rust:1.95.0-slim-bookworm AS build

# jemalloc is built with make; C compiler, linker and certificates are there.
RUN apt-get update \
    && apt-get install -y --no-install-recommends make \
    && rm -rf /var/lib/apt/lists/*
# Puts the list of crates into the program, which scanners of images read: half a minute, once.
RUN cargo install --locked --quiet --root /usr/local cargo-auditable@0.7.7
WORKDIR /build

# The dependencies, in a layer that stays until one of them changes: they are built for a program that is empty, which
# is then forgotten.
COPY Cargo.toml Cargo.lock ./
# How they and jemalloc are built.
COPY .cargo .cargo
COPY build/rustc build/
COPY emulator/Cargo.toml emulator/
# A member of the workspace that is not built: cargo only wants to know that it is there.
COPY bench/Cargo.toml bench/
RUN chmod +x build/rustc \
    && mkdir src bench/src emulator/src \
    && touch src/lib.rs emulator/src/lib.rs \
    && echo 'fn main() {}' | tee src/main.rs build/main.rs >bench/src/main.rs \
    && cargo auditable build --release --locked \
    && cargo clean --release --locked --package ai-proxy --package ai-proxy-emulator \
    && rm -r src build emulator/src

COPY build build
COPY docs/runbook docs/runbook
COPY emulator/src emulator/src
COPY src src
# Not every way of a source to a builder keeps that it can be run.
RUN chmod +x build/rustc && cargo auditable build --release --locked

# The rest of the image: glibc, which resolves names by itself (its dns and files services are part of it), the
# certificates that upstream's is verified against, and for scanners and readers what these are and their licences.
RUN mkdir -p /root-fs/etc/ssl/certs /root-fs/var/lib/dpkg/status.d \
    && ldd target/release/ai-proxy | grep -o '/[^ ]*' | xargs cp --parents --dereference --target-directory=/root-fs \
    && cp /etc/ssl/certs/ca-certificates.crt /root-fs/etc/ssl/certs/ \
    && cp --dereference /etc/os-release /root-fs/etc/ \
    && echo 'hosts: files dns' >/root-fs/etc/nsswitch.conf \
    && echo 'nonroot:x:65532:65532:nonroot:/home/nonroot:/sbin/nologin' >/root-fs/etc/passwd \
    && echo 'nonroot:x:65532:' >/root-fs/etc/group \
    && for package in libc6 libgcc-s1 ca-certificates; do \
         dpkg-query --status "$package" >"/root-fs/var/lib/dpkg/status.d/$package" \
         && mkdir -p "/root-fs/usr/share/doc/$package" \
         && cp "/usr/share/doc/$package/copyright" "/root-fs/usr/share/doc/$package/" \
         || exit 1; \
       done

FROM scratch
COPY --from=build /root-fs /
COPY --from=build /build/target/release/ai-proxy /ai-proxy

# `--build-arg REVISION=$(git rev-parse HEAD)` says which commit it is.
ARG REVISION=unknown
LABEL org.opencontainers.image.title="ai-proxy" \
      org.opencontainers.image.description="OpenAI-style clients on Gemini in your own Google Cloud project: one stateless gateway with keys that you issue" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.revision="$REVISION" \
      org.opencontainers.image.licenses="Apache-2.0"

# By number, so that an orchestrator can tell that this is not root.
USER 65532:65532
# Where it listens unless PORT says otherwise.
EXPOSE 8080
ENTRYPOINT ["/ai-proxy"]
