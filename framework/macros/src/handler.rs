//! `#[handler]` on a hand-written `impl Handler<M> for A`: an entry in the table beside it.

use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};
use syn::parse::Parser;
use syn::spanned::Spanned;
use syn::{GenericArgument, Item, ItemImpl, PathArguments, Type};

use crate::keys;

/// A hand-written handler.
struct Handler {
    actor: Type,
    message: Type,
    /// Whether the reply is a `ReplyStream`.
    is_stream: bool,
}

pub(crate) fn expand(keys: TokenStream, item: TokenStream) -> syn::Result<TokenStream> {
    let is_stream = is_stream(keys)?;
    let block = block(syn::parse2(item)?)?;
    let entry = write(&Handler::read(&block, is_stream)?);
    Ok(quote!(#block #entry))
}

fn is_stream(keys: TokenStream) -> syn::Result<bool> {
    let mut stream = None;
    let parser = syn::meta::parser(|meta| {
        if meta.path.is_ident("stream") {
            keys::once(&mut stream, &meta, ())
        } else if meta.path.is_ident("cancel") {
            Err(meta.error("in a hand-written impl say `const CANCEL_DROPS: bool = true;`"))
        } else {
            Err(keys::unknown(&meta, &["stream"]))
        }
    });
    parser.parse2(keys)?;
    Ok(stream.is_some())
}

fn block(item: Item) -> syn::Result<ItemImpl> {
    const EXPECTED: &str = "#[handler] stands on `impl Handler<M> for A`, or on a method inside an #[actor] block";
    match item {
        Item::Impl(block) if block.trait_.is_some() => Ok(block),
        Item::Impl(block) => Err(syn::Error::new_spanned(&block.self_ty, EXPECTED)),
        other => Err(syn::Error::new(other.span(), EXPECTED)),
    }
}

impl Handler {
    fn read(block: &ItemImpl, is_stream: bool) -> syn::Result<Self> {
        if let Some(parameter) = block.generics.params.first() {
            let message = "a handler is registered under one name with one type: register each by an `impl` of its own, \
                           or remove #[handler] and use it inside the process";
            return Err(syn::Error::new_spanned(parameter, message));
        }
        let last = block.trait_.as_ref().and_then(|(_, path, _)| path.segments.last());
        let message = match last.map(|last| (&last.ident, &last.arguments)) {
            Some((ident, PathArguments::AngleBracketed(arguments))) if ident == "Handler" => arguments.args.first(),
            _ => None,
        };
        match message {
            Some(GenericArgument::Type(message)) => {
                Ok(Self { actor: (*block.self_ty).clone(), message: message.clone(), is_stream })
            }
            _ => Err(syn::Error::new_spanned(last, "expected `Handler<M>`, with the message's type")),
        }
    }
}

fn write(handler: &Handler) -> TokenStream {
    let Handler { actor, message, is_stream } = handler;
    let name = quote! {
        ::core::concat!(::core::module_path!(), "::", ::core::stringify!(#actor), ": ", ::core::stringify!(#message))
    };
    // Whatever cannot be registered is a fault of the message's type.
    let entry = if *is_stream {
        quote_spanned!(message.span()=> ::mobula::__private::HandlerEntry::stream::<#actor, #message, _>(#name))
    } else {
        quote_spanned!(message.span()=> ::mobula::__private::HandlerEntry::value::<#actor, #message>(#name))
    };
    quote!(::mobula::__private::inventory::submit! { #entry })
}
