//! Writes the Rust code of `proto/lakebed/` into a folder: `cargo run -- PROTO_FOLDER OUT_FOLDER`.

fn main() -> std::io::Result<()> {
    let mut args = std::env::args().skip(1);
    let (Some(proto), Some(out)) = (args.next(), args.next()) else {
        eprintln!("usage: lakebed-proto-codegen PROTO_FOLDER OUT_FOLDER");
        std::process::exit(2);
    };
    tonic_prost_build::configure()
        .out_dir(out)
        .bytes("QueryTask.picture")
        .bytes("Results.stream")
        .compile_protos(&[format!("{proto}/lakebed/worker/v1/worker.proto")], &[proto])
}
