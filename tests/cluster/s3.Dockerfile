FROM scratch
COPY versitygw /versitygw
# As in scripts/s3_server.py.
ENV GOGC=400
USER 10001:10001
ENTRYPOINT ["/versitygw"]
